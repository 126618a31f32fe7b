// Calls the parser as nvinfer does, for ctypes. Gives the number of objects, or -1 where it fails. An object is 5 numbers
// (left, top, width, height, confidence), and with a mask 3 K more.
#include <algorithm>

#include "nvdsinfer_custom_impl.h"

extern "C" bool NvDsInferParseCustomRtmo(std::vector<NvDsInferLayerInfo> const&, NvDsInferNetworkInfo const&,
                                         NvDsInferParseDetectionParams const&,
                                         std::vector<NvDsInferObjectDetectionInfo>&);
extern "C" bool NvDsInferParseCustomRtmoPose(std::vector<NvDsInferLayerInfo> const&, NvDsInferNetworkInfo const&,
                                             NvDsInferParseDetectionParams const&,
                                             std::vector<NvDsInferInstanceMaskInfo>&);

namespace {

template <typename Object>
void box_of(const Object& object, float* values) {
    const float numbers[] = {object.left, object.top, object.width, object.height, object.detectionConfidence};
    std::copy_n(numbers, 5, values);
}

}  // namespace

extern "C" int parse(const float* dets, const unsigned int* dets_sides, const float* keypoints,
                     const unsigned int* keypoints_sides, const char* name, int type, unsigned int width,
                     unsigned int height, unsigned int classes, float threshold, int masks, float* found) {
    NvDsInferLayerInfo layers[2]{};
    const void* buffers[] = {keypoints, dets};  // the order is nvinfer's, not ours
    const unsigned int* sides[] = {keypoints_sides, dets_sides};
    const char* names[] = {"keypoints", name};
    for (int i = 0; i < 2; ++i) {
        layers[i].dataType = static_cast<NvDsInferDataType>(type);
        layers[i].layerName = names[i];
        layers[i].buffer = const_cast<void*>(buffers[i]);
        layers[i].inferDims.numDims = sides[i][0];
        std::copy_n(sides[i] + 1, sides[i][0], layers[i].inferDims.d);
    }
    const std::vector<NvDsInferLayerInfo> all(layers, layers + 2);
    const NvDsInferNetworkInfo network{width, height, 3};
    const NvDsInferParseDetectionParams params{classes, std::vector<float>(classes, threshold), {}};
    if (!masks) {
        std::vector<NvDsInferObjectDetectionInfo> objects;
        if (!NvDsInferParseCustomRtmo(all, network, params, objects)) return -1;
        for (std::size_t i = 0; i < objects.size(); ++i) box_of(objects[i], found + 5 * i);
        return static_cast<int>(objects.size());
    }
    std::vector<NvDsInferInstanceMaskInfo> objects;
    const bool passed = NvDsInferParseCustomRtmoPose(all, network, params, objects);
    const std::size_t size = 3 * keypoints_sides[2];
    for (std::size_t i = 0; i < objects.size(); ++i) {
        const NvDsInferInstanceMaskInfo& object = objects[i];
        const bool fits = object.mask_width * object.mask_height * sizeof(float) == object.mask_size;
        box_of(object, found + (5 + size) * i);
        if (fits && object.mask_size == size * sizeof(float)) std::copy_n(object.mask, size, found + (5 + size) * i + 5);
        delete[] object.mask;
    }
    return passed ? static_cast<int>(objects.size()) : -1;
}
