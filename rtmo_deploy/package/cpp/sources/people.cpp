#include "people.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace rtmo {
namespace {

constexpr std::int64_t kMostRows = 1 << 20;

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const std::int64_t side : shape) text += (text.empty() ? "" : "x") + std::to_string(side);
    return text;
}

void append(std::string& text, float value) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(value));  // the same float when read again
    text += digits;
}

}  // namespace

Outputs shaped(const std::vector<std::int64_t>& dets, const std::vector<std::int64_t>& keypoints,
               const Settings& settings) {
    const auto joints = static_cast<std::int64_t>(settings.keypoints.size());
    const bool fits = dets.size() == 3 && keypoints.size() == 4 && dets[0] >= 1 && dets[1] >= 0 && dets[2] == 5 &&
                      keypoints[0] == dets[0] && keypoints[1] == dets[1] && keypoints[2] == joints && keypoints[3] == 3;
    if (!fits || dets[0] * dets[1] > kMostRows) {
        throw Error(Exit::model, "The model puts out dets " + shape_text(dets) + " and keypoints " +
                                     shape_text(keypoints) + ", and by its metadata it has " + std::to_string(joints) +
                                     " keypoints. Export it again.");
    }
    Outputs found;
    found.batch = dets[0];
    found.rows = dets[1];
    return found;
}

std::vector<Person> people_of(const Outputs& outputs, std::int64_t image, const Settings& settings, int width,
                              int height, const Transform& transform, float score_thr, std::size_t most) {
    const std::size_t joints = settings.keypoints.size(), rows = static_cast<std::size_t>(outputs.rows);
    const float* dets = outputs.dets.data() + static_cast<std::size_t>(image) * rows * 5;
    const float* points = outputs.keypoints.data() + static_cast<std::size_t>(image) * rows * joints * 3;
    std::vector<std::size_t> kept;
    for (std::size_t row = 0; row < rows; ++row) {
        if (dets[5 * row + 4] > score_thr) kept.push_back(row);
    }
    std::stable_sort(kept.begin(), kept.end(),
                     [&](std::size_t a, std::size_t b) { return dets[5 * a + 4] > dets[5 * b + 4]; });
    const auto finite = [](float value) {
        if (!std::isfinite(value)) {
            throw Error(Exit::model,
                        "The model's outputs are not finite on this image: its weights are damaged, or its precision "
                        "is too low.");
        }
        return value;
    };
    const float limits[2] = {static_cast<float>(width), static_cast<float>(height)};
    std::vector<Person> found;
    for (const std::size_t row : kept) {
        Person person{};
        person.score = finite(dets[5 * row + 4]);
        for (std::size_t i = 0; i < 4; ++i) {
            const float side = finite(std::min(std::max(dets[5 * row + i], 0.0f), limits[i % 2]));
            person.box[i] = i % 2 == 0 ? transform.original_x(side) : transform.original_y(side);
        }
        for (std::size_t k = 0; k < joints; ++k) {
            const float* point = points + (row * joints + k) * 3;
            person.keypoints.push_back({transform.original_x(finite(point[0])), transform.original_y(finite(point[1])),
                                        finite(point[2])});
        }
        found.push_back(std::move(person));
    }
    if (found.size() > most) found.resize(most);
    return found;
}

std::string to_json(const std::vector<Person>& people) {
    std::string text = "[";
    for (const Person& person : people) {
        text += text.size() > 1 ? ",{\"box\":[" : "{\"box\":[";
        for (int i = 0; i < 4; ++i) {
            if (i > 0) text += ',';
            append(text, person.box[i]);
        }
        text += "],\"score\":";
        append(text, person.score);
        text += ",\"keypoints\":[";
        for (std::size_t k = 0; k < person.keypoints.size(); ++k) {
            text += k > 0 ? ",[" : "[";
            append(text, person.keypoints[k].x);
            text += ',';
            append(text, person.keypoints[k].y);
            text += ',';
            append(text, person.keypoints[k].score);
            text += ']';
        }
        text += "]}";
    }
    return text + "]";
}

}  // namespace rtmo
