// The model in ONNX Runtime.
#include <onnxruntime_cxx_api.h>

#include <array>
#include <filesystem>

#include "runner.h"

namespace rtmo {
namespace {

class OrtRunner : public Runner {
public:
    OrtRunner(const std::string& model, int threads)
        : env_(ORT_LOGGING_LEVEL_ERROR, "rtmo"), session_(open(env_, model, threads, {})) {
        settings_ = settings_of(session_);
        // Unless the 8-bit numbers are for ONNX Runtime, its integer kernels would round otherwise than the model's.
        const bool int8 = settings_.precision.rfind("int8", 0) == 0;
        const bool mixed = settings_.precision.find('+') != std::string::npos;
        if (int8 && (mixed || settings_.target != "onnxruntime")) {
            session_ = open(env_, model, threads, "session.disable_quant_qdq");
        }
        Ort::AllocatorWithDefaultOptions allocator;
        if (session_.GetInputCount() != 1) throw Error(Exit::model, model + ": It has several inputs.");
        input_ = session_.GetInputNameAllocated(0, allocator).get();
        follow_graph(settings_, session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape());
    }

    const Settings& settings() const override { return settings_; }

    Outputs run(const std::vector<float>& images, int batch, int height, int width) override {
        const std::array<std::int64_t, 4> shape{batch, 3, height, width};
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
        const Ort::Value input = Ort::Value::CreateTensor<float>(memory, const_cast<float*>(images.data()),
                                                                 images.size(), shape.data(), shape.size());
        const char* inputs[] = {input_.c_str()};
        const char* outputs[] = {"dets", "keypoints"};
        const auto values = session_.Run(Ort::RunOptions{nullptr}, inputs, &input, 1, outputs, 2);
        for (const Ort::Value& value : values) {
            if (value.GetTensorTypeAndShapeInfo().GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
                throw Error(Exit::model, "The model's outputs are not float32.");
            }
        }
        const auto dets = values[0].GetTensorTypeAndShapeInfo(), points = values[1].GetTensorTypeAndShapeInfo();
        Outputs found = shaped(dets.GetShape(), points.GetShape(), settings_);
        const float *rows = values[0].GetTensorData<float>(), *joints = values[1].GetTensorData<float>();
        found.dets.assign(rows, rows + dets.GetElementCount());
        found.keypoints.assign(joints, joints + points.GetElementCount());
        return found;
    }

private:
    static Ort::Session open(const Ort::Env& env, const std::string& model, int threads, const std::string& entry) {
        Ort::SessionOptions options;
        if (threads > 0) options.SetIntraOpNumThreads(threads);
        if (!entry.empty()) options.AddConfigEntry(entry.c_str(), "1");
        return {env, std::filesystem::path(model).c_str(), options};
    }

    static Settings settings_of(const Ort::Session& session) {
        Ort::AllocatorWithDefaultOptions allocator;
        const Ort::ModelMetadata metadata = session.GetModelMetadata();
        return read_settings([&](const std::string& name) -> std::optional<Json> {
            const auto text = metadata.LookupCustomMetadataMapAllocated(("rtmo_deploy." + name).c_str(), allocator);
            return text ? std::optional<Json>(Json::parse(text.get())) : std::nullopt;
        });
    }

    Ort::Env env_;
    Ort::Session session_;
    Settings settings_;
    std::string input_;
};

// Passes ONNX Runtime's errors on as this program's.
class Guarded : public Runner {
public:
    Guarded(const std::string& model, int threads) : model_(model) {
        if (!std::filesystem::is_regular_file(model)) throw Error(Exit::model, model + ": There is no such model.");
        try {
            inner_ = std::make_unique<OrtRunner>(model, threads);
        } catch (const Ort::Exception& error) {
            throw Error(Exit::model, model + ": ONNX Runtime does not load it: " + error.what());
        } catch (const Error& error) {
            throw Error(error.code, model + ": " + error.what());
        }
    }

    const Settings& settings() const override { return inner_->settings(); }

    Outputs run(const std::vector<float>& images, int batch, int height, int width) override {
        try {
            return inner_->run(images, batch, height, width);
        } catch (const Ort::Exception& error) {
            throw Error(Exit::model, model_ + ": It does not run: " + error.what());
        }
    }

private:
    std::string model_;
    std::unique_ptr<OrtRunner> inner_;
};

}  // namespace

std::unique_ptr<Runner> open_runner(const std::string& model, int threads) {
    if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
        throw Error(Exit::setup, std::string("The ONNX Runtime library is of version ") +
                                     OrtGetApiBase()->GetVersionString() + ", older than the headers (API " +
                                     std::to_string(ORT_API_VERSION) + ") that this program was built with.");
    }
    return std::make_unique<Guarded>(model, threads);
}

}  // namespace rtmo
