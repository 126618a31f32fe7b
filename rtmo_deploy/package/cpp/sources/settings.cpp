#include "settings.h"

namespace rtmo {
namespace {

constexpr int kMost = 1 << 14, kMostBatch = 1 << 12, kMostKeypoints = 1024;

}  // namespace

Settings read_settings(const std::function<std::optional<Json>(const std::string&)>& find) {
    const auto field = [&](const std::string& name) {
        std::optional<Json> found = find(name);
        if (!found) {
            throw Error(Exit::model, "The model has no metadata of rtmo-deploy ('" + name +
                                         "' is missing). Write it with 'rtmo-deploy export'.");
        }
        return *std::move(found);
    };
    if (field("schema_version").whole(1, 1 << 20) > 1) {
        throw Error(Exit::model, "The model's metadata is newer than this program. Package the model again.");
    }
    const Json input = field("input"), decode = field("decode"), skeleton = field("skeleton");
    const std::string mode = decode.at("mode").text();
    if ((mode != "onnx" && mode != "fixed") || decode.at("junk_rows").boolean()) {
        throw Error(Exit::model, "The model's outputs are of mode '" + mode +
                                     "', which this program does not decode. Use 'rtmo-deploy export --decode fixed'.");
    }
    Settings found;
    found.multiple = input.at("multiple").whole(32, 1024);
    found.height = input.at("height").whole(found.multiple, kMost);
    found.width = input.at("width").whole(found.multiple, kMost);
    if (found.height % found.multiple != 0 || found.width % found.multiple != 0) {
        throw Error(Exit::model, "The model's input has sides that are not multiples of " +
                                     std::to_string(found.multiple) + ".");
    }
    found.any_size = input.at("dynamic_hw").boolean();
    found.batch = input.at("batch").is_null() ? 0 : input.at("batch").whole(1, kMostBatch);
    const std::string placement = input.at("placement").text();
    if (placement != "center" && placement != "top-left") {
        throw Error(Exit::model, "The model asks for the unknown placement '" + placement + "'.");
    }
    found.placement = placement == "center" ? Placement::center : Placement::top_left;
    found.pad = static_cast<std::uint8_t>(input.at("pad").whole(0, 255));
    found.score_thr = static_cast<float>(decode.at("score_thr").number());
    found.skeleton = skeleton.at("name").text();
    for (const Json& name : skeleton.at("keypoints").array()) found.keypoints.push_back(name.text());
    if (found.keypoints.empty() || found.keypoints.size() > kMostKeypoints) {
        throw Error(Exit::model, "The model has " + std::to_string(found.keypoints.size()) + " keypoints.");
    }
    found.precision = field("precision").text();
    const std::optional<Json> target = find("target");
    if (target && !target->is_null()) found.target = target->text();
    return found;
}

void follow_graph(Settings& settings, const std::vector<std::int64_t>& input) {
    const auto fits = [&](std::int64_t side) { return side <= kMost && side % settings.multiple == 0; };
    if (input.size() != 4 || (input[1] > 0 && input[1] != 3) || (input[2] > 0 && !fits(input[2])) ||
        (input[3] > 0 && !fits(input[3])) || input[0] > kMostBatch) {
        throw Error(Exit::model, "The model's input is not that of an RTMO model.");
    }
    settings.any_size = settings.any_size && input[2] <= 0 && input[3] <= 0;
    if (input[0] > 0) settings.batch = static_cast<int>(input[0]);
    if (input[2] > 0) settings.height = static_cast<int>(input[2]);
    if (input[3] > 0) settings.width = static_cast<int>(input[3]);
}

}  // namespace rtmo
