// How images go into a model and people come out: what rtmo-deploy wrote into the model's metadata.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "json.h"
#include "letterbox.h"

namespace rtmo {

struct Settings {
    int height = 0;  // of the network's input, pixels
    int width = 0;
    bool any_size = false;  // other multiples of `multiple` are taken, too
    int multiple = 32;
    int batch = 0;  // images at a time; 0 where any number is taken
    Placement placement = Placement::center;
    std::uint8_t pad = 114;
    float score_thr = 0;  // scores must be above it
    std::string skeleton;
    std::vector<std::string> keypoints;  // their names
    std::string precision;
    std::optional<std::string> target;  // the runtime that INT8 numbers are for
};

// `find` gives a field of the metadata, such as "input", or nothing.
// Throws Error (model) where the model has no such metadata, or its graph leaves decoding to the program.
Settings read_settings(const std::function<std::optional<Json>(const std::string&)>& find);

// The sizes of the model's input decide over its metadata: batch, channels, height, width, each <= 0 where any is taken.
void follow_graph(Settings& settings, const std::vector<std::int64_t>& input);

}  // namespace rtmo
