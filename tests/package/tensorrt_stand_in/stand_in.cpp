// Plays TensorRT and CUDA on the host. A plan is text: "stand-in", the output shapes' rows and keypoints, the input's
// sides (-1: dynamic), and profiles of least and greatest sides. The input of a run goes to the file that
// STAND_IN_INPUT names; its outputs, dets and then keypoints, come from the one that STAND_IN_OUTPUTS names.
#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "NvInferRuntime.h"

using namespace nvinfer1;

char const* cudaGetErrorString(cudaError_t) { return "out of memory"; }
cudaError_t cudaMalloc(void** data, std::size_t size) {
    *data = std::malloc(size);
    return *data ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* data) { return std::free(data), cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t size, cudaMemcpyKind, cudaStream_t) {
    return std::memcpy(to, from, size), cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return *stream = nullptr, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

namespace {

struct Plan {
    std::int64_t rows = 0, joints = 0;
    std::array<std::int64_t, 4> input{};
    std::vector<std::array<std::array<std::int64_t, 4>, 2>> profiles;
};

Dims dims(std::initializer_list<std::int64_t> sides) {
    Dims found{};
    for (const std::int64_t side : sides) found.d[found.nbDims++] = side;
    return found;
}

class Context : public IExecutionContext {
public:
    explicit Context(Plan plan) : plan_(std::move(plan)) {}
    bool setInputShape(char const* name, Dims const& wanted) noexcept override {
        const auto& profile = plan_.profiles[profile_];
        for (int i = 0; i < 4; ++i) {
            if (wanted.d[i] < profile[0][i] || wanted.d[i] > profile[1][i]) return false;
        }
        input_ = wanted;
        return std::string(name) == "input" && wanted.nbDims == 4;
    }
    Dims getTensorShape(char const* name) const noexcept override {
        if (std::string(name) == "input") return input_;
        if (std::string(name) == "dets") return dims({input_.d[0], plan_.rows, 5});
        return dims({input_.d[0], plan_.rows, plan_.joints, 3});
    }
    bool setTensorAddress(char const* name, void* data) noexcept override { return addresses_[name] = data, true; }
    bool setOptimizationProfileAsync(std::int32_t index, cudaStream_t) noexcept override { return profile_ = index, true; }
    bool enqueueV3(cudaStream_t) noexcept override {
        std::ofstream(std::getenv("STAND_IN_INPUT"), std::ios::binary)
            .write(static_cast<char*>(addresses_["input"]), 4 * 3 * input_.d[0] * input_.d[2] * input_.d[3]);
        std::ifstream outputs(std::getenv("STAND_IN_OUTPUTS"), std::ios::binary);
        const std::int64_t rows = input_.d[0] * plan_.rows;
        return outputs.read(static_cast<char*>(addresses_["dets"]), 4 * rows * 5) &&
               outputs.read(static_cast<char*>(addresses_["keypoints"]), 4 * rows * plan_.joints * 3);
    }

private:
    Plan plan_;
    Dims input_{};
    int profile_ = 0;
    std::map<std::string, void*> addresses_;
};

class Engine : public ICudaEngine {
public:
    explicit Engine(Plan plan) : plan_(std::move(plan)) {}
    std::int32_t getNbIOTensors() const noexcept override { return 3; }
    char const* getIOTensorName(std::int32_t index) const noexcept override {
        static constexpr char const* names[] = {"input", "dets", "keypoints"};
        return names[index];
    }
    DataType getTensorDataType(char const*) const noexcept override { return DataType::kFLOAT; }
    TensorIOMode getTensorIOMode(char const* name) const noexcept override {
        return std::string(name) == "input" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    Dims getTensorShape(char const*) const noexcept override {
        return dims({plan_.input[0], plan_.input[1], plan_.input[2], plan_.input[3]});
    }
    Dims getProfileShape(char const*, std::int32_t index, OptProfileSelector which) const noexcept override {
        const auto& sides = plan_.profiles[index][which == OptProfileSelector::kMAX ? 1 : 0];
        return dims({sides[0], sides[1], sides[2], sides[3]});
    }
    std::int32_t getNbOptimizationProfiles() const noexcept override {
        return static_cast<std::int32_t>(plan_.profiles.size());
    }
    IExecutionContext* createExecutionContext() noexcept override { return new Context(plan_); }

private:
    Plan plan_;
};

class Runtime : public IRuntime {
public:
    explicit Runtime(ILogger& logger) : logger_(logger) {}
    ICudaEngine* deserializeCudaEngine(void const* data, std::size_t size) noexcept override {
        std::istringstream text(std::string(static_cast<char const*>(data), size));
        std::string magic;
        Plan plan;
        text >> magic >> plan.rows >> plan.joints;
        for (auto& side : plan.input) text >> side;
        if (magic != "stand-in" || !text) {
            logger_.log(ILogger::Severity::kERROR, "the plan is of another version");
            return nullptr;
        }
        std::array<std::array<std::int64_t, 4>, 2> profile{};
        while (text >> profile[0][0]) {
            for (int i = 1; i < 8; ++i) text >> profile[i / 4][i % 4];
            plan.profiles.push_back(profile);
        }
        return new Engine(std::move(plan));
    }

private:
    ILogger& logger_;
};

}  // namespace

IRuntime* nvinfer1::createInferRuntime(ILogger& logger) noexcept { return new Runtime(logger); }
