// The network's outputs to people in pixels of the image.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "settings.h"

namespace rtmo {

struct Keypoint {
    float x;
    float y;
    float score;  // 0 to 1: how visible it is
};

struct Person {
    float box[4];  // x1, y1, x2, y2
    float score;
    std::vector<Keypoint> keypoints;
};

// What a graph puts out: dets (batch, rows, 5) and keypoints (batch, rows, K, 3), in pixels of its input.
struct Outputs {
    std::int64_t batch = 0;
    std::int64_t rows = 0;
    std::vector<float> dets;
    std::vector<float> keypoints;
};

// The sizes that outputs have by their shapes. Throws Error (model) where they are not as the settings say.
Outputs shaped(const std::vector<std::int64_t>& dets, const std::vector<std::int64_t>& keypoints,
               const Settings& settings);

// People of one image, best first: rows above the threshold, boxes clipped to the input, all in pixels of the image.
// Throws Error (model) where a number is not finite.
std::vector<Person> people_of(const Outputs& outputs, std::int64_t image, const Settings& settings, int width,
                              int height, const Transform& transform, float score_thr, std::size_t most);

// Their JSON form: a list of {"box", "score", "keypoints": [[x, y, score], ...]}.
std::string to_json(const std::vector<Person>& people);

}  // namespace rtmo
