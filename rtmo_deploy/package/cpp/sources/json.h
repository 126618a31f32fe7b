// A small reader of JSON, for the settings in a model's metadata.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace rtmo {

class Json {
public:
    using Array = std::vector<Json>;
    using Object = std::map<std::string, Json>;

    // Throws Error (model) where the text is no JSON.
    static Json parse(std::string_view text);

    bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
    // These throw Error (model) where the value is something else, or is missing.
    const Json& at(const std::string& key) const;
    const Json* find(const std::string& key) const;  // a null pointer where there is none
    const Array& array() const;
    const std::string& text() const;
    bool boolean() const;
    double number() const;
    int whole(int least, int most) const;

private:
    friend class JsonReader;
    std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value_ = nullptr;
};

// Text as a JSON string, quotes included. What is not UTF-8 is passed on.
std::string quoted(const std::string& text);

}  // namespace rtmo
