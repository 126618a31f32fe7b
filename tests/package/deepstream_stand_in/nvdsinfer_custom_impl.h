// The part of DeepStream's interface that the parser uses, in declarations of our own: names, order and types are those
// of DeepStream 9.1's nvdsinfer.h and nvdsinfer_custom_impl.h.
#pragma once

#include <vector>

#define NVDSINFER_MAX_DIMS 8

enum NvDsInferDataType { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3, INT64 = 4, UINT8 = 5 };

struct NvDsInferDims {
    unsigned int numDims;
    unsigned int d[NVDSINFER_MAX_DIMS];
    unsigned int numElements;
};

struct NvDsInferLayerInfo {
    NvDsInferDataType dataType;
    union {
        NvDsInferDims inferDims;
        NvDsInferDims dims;
    };
    int bindingIndex;
    const char* layerName;
    void* buffer;
    int isInput;
};

struct NvDsInferNetworkInfo {
    unsigned int width, height, channels;
};

struct NvDsInferObjectDetectionInfo {
    unsigned int classId;
    float left, top, width, height;
    float detectionConfidence;
    float rotation_angle;
};

struct NvDsInferInstanceMaskInfo {
    unsigned int classId;
    float left, top, width, height;
    float detectionConfidence;
    float* mask;
    unsigned int mask_width, mask_height, mask_size;
};

struct NvDsInferParseDetectionParams {
    unsigned int numClassesConfigured;
    std::vector<float> perClassPreclusterThreshold;
    std::vector<float> perClassPostclusterThreshold;
};

// DeepStream's macros declare the function once more, and make sure that it is of this type.
template <typename Object>
using Parser = bool (*)(std::vector<NvDsInferLayerInfo> const&, NvDsInferNetworkInfo const&,
                        NvDsInferParseDetectionParams const&, std::vector<Object>&);
#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(name) \
    static_assert(static_cast<Parser<NvDsInferObjectDetectionInfo>>(&name) != nullptr);
#define CHECK_CUSTOM_INSTANCE_MASK_PARSE_FUNC_PROTOTYPE(name) \
    static_assert(static_cast<Parser<NvDsInferInstanceMaskInfo>>(&name) != nullptr);
