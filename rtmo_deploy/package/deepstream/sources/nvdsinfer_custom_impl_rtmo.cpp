// RTMO's outputs to DeepStream's objects, for Gst-nvinfer.
//
// dets (rows, 5): x1, y1, x2, y2, score; keypoints (rows, K, 3): x, y, score; both in pixels of the network's input.
// NvDsInferParseCustomRtmoPose (network-type 3) hands keypoints on as an instance mask of 3 columns and K rows, still in
// pixels of the network's input. NvDsInferParseCustomRtmo (network-type 0) hands on boxes alone.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <vector>

#include "nvdsinfer_custom_impl.h"

extern "C" bool NvDsInferParseCustomRtmo(std::vector<NvDsInferLayerInfo> const& outputLayersInfo,
                                         NvDsInferNetworkInfo const& networkInfo,
                                         NvDsInferParseDetectionParams const& detectionParams,
                                         std::vector<NvDsInferObjectDetectionInfo>& objectList);

extern "C" bool NvDsInferParseCustomRtmoPose(std::vector<NvDsInferLayerInfo> const& outputLayersInfo,
                                             NvDsInferNetworkInfo const& networkInfo,
                                             NvDsInferParseDetectionParams const& detectionParams,
                                             std::vector<NvDsInferInstanceMaskInfo>& objectList);

namespace {

struct Layer {
    const float* values = nullptr;
    std::vector<unsigned int> sides;  // without the batch
};

bool find_layer(const std::vector<NvDsInferLayerInfo>& layers, const char* name, unsigned int dimensions, Layer& found) {
    for (const NvDsInferLayerInfo& layer : layers) {
        if (layer.layerName == nullptr || std::strcmp(layer.layerName, name) != 0) continue;
        const NvDsInferDims& dims = layer.inferDims;
        if (layer.dataType != FLOAT || layer.buffer == nullptr || dims.numDims != dimensions) {
            std::cerr << "RTMO: the output " << name << " is not float32 of " << dimensions << " sides\n";
            return false;
        }
        found.values = static_cast<const float*>(layer.buffer);
        found.sides.assign(dims.d, dims.d + dims.numDims);
        return true;
    }
    std::cerr << "RTMO: the model has no output " << name << "; export it with --decode fixed\n";
    return false;
}

struct Outputs {
    Layer dets;
    Layer keypoints;
    std::vector<unsigned int> kept;  // rows above the threshold, best first
};

bool finite(const float* values, std::size_t count) {
    return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

bool find_people(const std::vector<NvDsInferLayerInfo>& layers, const NvDsInferParseDetectionParams& params, Outputs& found) {
    if (!find_layer(layers, "dets", 2, found.dets) || !find_layer(layers, "keypoints", 3, found.keypoints)) return false;
    const auto &dets = found.dets.sides, &points = found.keypoints.sides;
    if (dets[1] != 5 || points[0] != dets[0] || points[1] == 0 || points[2] != 3) {
        std::cerr << "RTMO: the outputs dets and keypoints do not fit together\n";
        return false;
    }
    if (params.numClassesConfigured < 1 || params.perClassPreclusterThreshold.empty()) {
        std::cerr << "RTMO: num-detected-classes must be 1\n";
        return false;
    }
    const float* rows = found.dets.values;
    for (unsigned int row = 0; row < dets[0]; ++row) {
        if (!(rows[5 * row + 4] > params.perClassPreclusterThreshold[0])) continue;
        const std::size_t size = 3 * static_cast<std::size_t>(points[1]);
        if (!finite(rows + 5 * row, 5) || !finite(found.keypoints.values + row * size, size)) {
            std::cerr << "RTMO: the outputs are not finite; the model's precision is too low\n";
            return false;
        }
        found.kept.push_back(row);
    }
    std::stable_sort(found.kept.begin(), found.kept.end(),
                     [&](unsigned int a, unsigned int b) { return rows[5 * a + 4] > rows[5 * b + 4]; });
    return true;
}

template <typename Object>
void set_box(Object& object, const float* row, const NvDsInferNetworkInfo& network) {
    const float width = static_cast<float>(network.width), height = static_cast<float>(network.height);
    const float left = std::clamp(row[0], 0.0f, width), top = std::clamp(row[1], 0.0f, height);
    object.classId = 0;
    object.left = left;
    object.top = top;
    object.width = std::clamp(row[2], 0.0f, width) - left;
    object.height = std::clamp(row[3], 0.0f, height) - top;
    object.detectionConfidence = row[4];
}

}  // namespace

extern "C" bool NvDsInferParseCustomRtmo(std::vector<NvDsInferLayerInfo> const& outputLayersInfo,
                                         NvDsInferNetworkInfo const& networkInfo,
                                         NvDsInferParseDetectionParams const& detectionParams,
                                         std::vector<NvDsInferObjectDetectionInfo>& objectList) {
    Outputs outputs;
    if (!find_people(outputLayersInfo, detectionParams, outputs)) return false;
    for (const unsigned int row : outputs.kept) {
        NvDsInferObjectDetectionInfo object{};
        set_box(object, outputs.dets.values + 5 * row, networkInfo);
        objectList.push_back(object);
    }
    return true;
}

extern "C" bool NvDsInferParseCustomRtmoPose(std::vector<NvDsInferLayerInfo> const& outputLayersInfo,
                                             NvDsInferNetworkInfo const& networkInfo,
                                             NvDsInferParseDetectionParams const& detectionParams,
                                             std::vector<NvDsInferInstanceMaskInfo>& objectList) {
    Outputs outputs;
    if (!find_people(outputLayersInfo, detectionParams, outputs)) return false;
    const unsigned int joints = outputs.keypoints.sides[1], size = 3 * joints;
    for (const unsigned int row : outputs.kept) {
        NvDsInferInstanceMaskInfo object{};
        set_box(object, outputs.dets.values + 5 * row, networkInfo);
        object.mask_width = 3;
        object.mask_height = joints;
        object.mask_size = size * sizeof(float);
        object.mask = new float[size];  // nvinfer frees it with delete[]
        std::copy_n(outputs.keypoints.values + static_cast<std::size_t>(row) * size, size, object.mask);
        objectList.push_back(object);
    }
    return true;
}

CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseCustomRtmo)
CHECK_CUSTOM_INSTANCE_MASK_PARSE_FUNC_PROTOTYPE(NvDsInferParseCustomRtmoPose)
