// The model in TensorRT 10 or newer, or in TensorRT-RTX. The engine's record, ENGINE.json, lies beside it.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iostream>
#include <limits>
#include <sstream>

#include "runner.h"

namespace rtmo {
namespace {

class Logger : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity > Severity::kERROR) return;
        last = message;
        std::cerr << "TensorRT: " << message << "\n";
    }
    std::string last;
};

void check(cudaError_t status) {
    if (status != cudaSuccess) throw Error(Exit::setup, std::string("CUDA: ") + cudaGetErrorString(status));
}

class DeviceMemory {
public:
    DeviceMemory() = default;
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;
    ~DeviceMemory() { cudaFree(data_); }

    void* of_size(std::size_t size) {
        if (size > size_) {
            cudaFree(data_);
            data_ = nullptr, size_ = 0;
            check(cudaMalloc(&data_, size));
            size_ = size;
        }
        return data_;
    }

private:
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

std::string content_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream content;
    if (!file || !(content << file.rdbuf())) throw Error(Exit::model, path + ": There is no such file, or it is empty.");
    return content.str();
}

std::vector<std::int64_t> sides_of(const nvinfer1::Dims& dims) { return {dims.d, dims.d + std::max(0, dims.nbDims)}; }

std::size_t volume(const std::vector<std::int64_t>& sides) {
    std::size_t found = 1;
    for (const std::int64_t side : sides) found *= static_cast<std::size_t>(side);
    return found;
}

class TrtRunner : public Runner {
public:
    explicit TrtRunner(const std::string& model) {
        const Json record = Json::parse(content_of(model + ".json"));
        const Json& artifact = record.at("artifact");
        settings_ = read_settings([&](const std::string& name) -> std::optional<Json> {
            const Json* found = artifact.find(name);
            return found ? std::optional<Json>(*found) : std::nullopt;
        });
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        if (!runtime_) throw Error(Exit::setup, "TensorRT cannot be started: " + logger_.last);
        const std::string plan = content_of(model);
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (!engine_) {
            throw Error(Exit::model, model + ": This TensorRT does not load the engine: " + logger_.last +
                                         " An engine needs the GPU and the version that it was built with.");
        }
        find_tensors(model);
        context_.reset(engine_->createExecutionContext());
        if (!context_) throw Error(Exit::setup, "There is no memory for the engine: " + logger_.last);
        check(cudaStreamCreate(&stream_));
        follow_graph(settings_, sides_of(engine_->getTensorShape(input_.c_str())));
        if (settings_.batch == 0) settings_.batch = fewest_images();
    }

    ~TrtRunner() override { cudaStreamDestroy(stream_); }

    const Settings& settings() const override { return settings_; }

    Outputs run(const std::vector<float>& images, int batch, int height, int width) override {
        const std::int64_t wanted[] = {batch, 3, height, width};
        choose_profile(wanted);
        nvinfer1::Dims shape{};
        shape.nbDims = 4;
        for (int i = 0; i < 4; ++i) shape.d[i] = wanted[i];
        if (!context_->setInputShape(input_.c_str(), shape)) throw failed();
        const std::vector<std::int64_t> dets = sides_of(context_->getTensorShape("dets")),
                                        points = sides_of(context_->getTensorShape("keypoints"));
        Outputs found = shaped(dets, points, settings_);
        found.dets.resize(volume(dets));
        found.keypoints.resize(volume(points));
        const std::size_t sizes[] = {images.size() * sizeof(float), found.dets.size() * sizeof(float),
                                     found.keypoints.size() * sizeof(float)};
        const char* names[] = {input_.c_str(), "dets", "keypoints"};
        for (int i = 0; i < 3; ++i) {
            if (!context_->setTensorAddress(names[i], memory_[i].of_size(sizes[i]))) throw failed();
        }
        check(cudaMemcpyAsync(memory_[0].of_size(sizes[0]), images.data(), sizes[0], cudaMemcpyHostToDevice, stream_));
        if (!context_->enqueueV3(stream_)) throw failed();
        float* targets[] = {found.dets.data(), found.keypoints.data()};
        for (int i = 0; i < 2; ++i) {
            const std::size_t size = sizes[i + 1];
            check(cudaMemcpyAsync(targets[i], memory_[i + 1].of_size(size), size, cudaMemcpyDeviceToHost, stream_));
        }
        check(cudaStreamSynchronize(stream_));
        return found;
    }

private:
    Error failed() const { return {Exit::model, "The engine does not run: " + logger_.last}; }

    void find_tensors(const std::string& model) {
        int outputs = 0;
        for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
            const std::string name = engine_->getIOTensorName(i);
            if (engine_->getTensorDataType(name.c_str()) != nvinfer1::DataType::kFLOAT) {
                throw Error(Exit::model, model + ": Its tensor " + name + " is not float32.");
            }
            if (engine_->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT) {
                if (!input_.empty()) throw Error(Exit::model, model + ": It has several inputs.");
                input_ = name;
            } else {
                outputs += name == "dets" || name == "keypoints" ? 1 : 0;
            }
        }
        if (input_.empty() || outputs != 2) {
            throw Error(Exit::model, model + ": It has not the outputs dets and keypoints.");
        }
    }

    int fewest_images() const {
        std::int64_t fewest = std::numeric_limits<int>::max();
        for (int i = 0; i < engine_->getNbOptimizationProfiles(); ++i) {
            const auto least = engine_->getProfileShape(input_.c_str(), i, nvinfer1::OptProfileSelector::kMIN);
            fewest = std::min<std::int64_t>(fewest, least.d[0]);
        }
        return static_cast<int>(fewest);
    }

    // Sets the optimization profile that takes a shape, unless the one in use does.
    void choose_profile(const std::int64_t (&wanted)[4]) {
        const auto takes = [&](int profile) {
            using Selector = nvinfer1::OptProfileSelector;
            const auto least = engine_->getProfileShape(input_.c_str(), profile, Selector::kMIN);
            const auto most = engine_->getProfileShape(input_.c_str(), profile, Selector::kMAX);
            for (int i = 0; i < 4; ++i) {
                if (wanted[i] < least.d[i] || wanted[i] > most.d[i]) return false;
            }
            return true;
        };
        if (takes(profile_)) return;
        for (int i = 0; i < engine_->getNbOptimizationProfiles(); ++i) {
            if (!takes(i)) continue;
            if (!context_->setOptimizationProfileAsync(i, stream_)) throw failed();
            profile_ = i;
            return;
        }
        throw Error(Exit::usage, "The engine was not built for " + std::to_string(wanted[0]) + " images of " +
                                     std::to_string(wanted[2]) + "x" + std::to_string(wanted[3]) + ".");
    }

    Logger logger_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;  // destroyed after what it made
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::array<DeviceMemory, 3> memory_;
    cudaStream_t stream_ = nullptr;
    Settings settings_;
    std::string input_;
    int profile_ = 0;
};

}  // namespace

std::unique_ptr<Runner> open_runner(const std::string& model, int threads) {
    if (threads > 0) throw Error(Exit::usage, "--threads is for ONNX Runtime.");
    return std::make_unique<TrtRunner>(model);
}

}  // namespace rtmo
