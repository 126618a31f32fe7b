#include "json.h"

#include <cstdio>
#include <cstdlib>

#include "image.h"

namespace rtmo {
namespace {

constexpr int kDeepest = 32;

Error wrong(const std::string& what) { return {Exit::model, "The model's settings are damaged: " + what + "."}; }

}  // namespace

class JsonReader {
public:
    explicit JsonReader(std::string_view text) : text_(text) {}

    Json whole() {
        Json found = value(0);
        skip_space();
        if (at_ != text_.size()) throw wrong("there is text behind a value");
        return found;
    }

private:
    Json value(int depth) {
        if (depth > kDeepest) throw wrong("they are too deep");
        skip_space();
        Json found;
        const char next = peek();
        if (next == '{') {
            found.value_ = object(depth);
        } else if (next == '[') {
            found.value_ = array(depth);
        } else if (next == '"') {
            found.value_ = string();
        } else if (take("true")) {
            found.value_ = true;
        } else if (take("false")) {
            found.value_ = false;
        } else if (!take("null")) {
            found.value_ = number();
        }
        return found;
    }

    Json::Object object(int depth) {
        Json::Object found;
        for (bool more = open('{', '}'); more; more = another('}')) {
            skip_space();
            std::string key = string();
            skip_space();
            if (!take(":")) throw wrong("a colon is missing");
            found.insert_or_assign(std::move(key), value(depth + 1));
        }
        return found;
    }

    Json::Array array(int depth) {
        Json::Array found;
        for (bool more = open('[', ']'); more; more = another(']')) found.push_back(value(depth + 1));
        return found;
    }

    bool open(char bracket, char closing) {
        take(std::string_view(&bracket, 1));
        skip_space();
        return !take(std::string_view(&closing, 1));
    }

    bool another(char closing) {
        skip_space();
        if (take(",")) return true;
        if (take(std::string_view(&closing, 1))) return false;
        throw wrong("a list does not end");
    }

    std::string string() {
        if (!take("\"")) throw wrong("a quote is missing");
        std::string found;
        while (peek() != '"') {
            char next = text_[at_++];
            if (next != '\\') {
                found += next;
                continue;
            }
            next = peek();
            ++at_;
            static constexpr std::string_view names = "bfnrt\"\\/", values = "\b\f\n\r\t\"\\/";
            const auto known = names.find(next);
            if (known != names.npos) {
                found += values[known];
            } else if (next == 'u') {
                append_utf8(found, escaped());
            } else {
                throw wrong("an escape is unknown");
            }
        }
        ++at_;
        return found;
    }

    unsigned escaped() {
        const unsigned first = hex();
        if (first < 0xd800 || first > 0xdbff || !take("\\u")) return first;
        return 0x10000 + ((first - 0xd800) << 10) + ((hex() - 0xdc00) & 0x3ff);
    }

    unsigned hex() {
        unsigned found = 0;
        for (int i = 0; i < 4; ++i, ++at_) {
            const char digit = peek();
            const std::size_t known = std::string_view("0123456789abcdef").find(static_cast<char>(digit | 32));
            if (known == std::string_view::npos) throw wrong("an escape is cut off");
            found = found * 16 + static_cast<unsigned>(known);
        }
        return found;
    }

    static void append_utf8(std::string& text, unsigned code) {
        if (code < 0x80) {
            text += static_cast<char>(code);
            return;
        }
        const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        static constexpr unsigned leads[] = {0, 0xc0, 0xe0, 0xf0};
        text += static_cast<char>(leads[more] | (code >> (6 * more)));
        for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3f));
    }

    double number() {
        const std::size_t end = text_.find_first_not_of("+-.0123456789eE", at_);
        const std::string digits(text_.substr(at_, end == std::string_view::npos ? end : end - at_));
        char* stop = nullptr;
        const double found = std::strtod(digits.c_str(), &stop);
        if (digits.empty() || *stop != '\0') throw wrong("a value is no JSON");
        at_ += digits.size();
        return found;
    }

    char peek() const {
        if (at_ >= text_.size()) throw wrong("they are cut off");
        return text_[at_];
    }

    bool take(std::string_view word) {
        if (text_.substr(at_, word.size()) != word) return false;
        at_ += word.size();
        return true;
    }

    void skip_space() {
        while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
    }

    std::string_view text_;
    std::size_t at_ = 0;
};

Json Json::parse(std::string_view text) { return JsonReader(text).whole(); }

const Json* Json::find(const std::string& key) const {
    const auto* members = std::get_if<Object>(&value_);
    if (members == nullptr) throw wrong("'" + key + "' is looked for in what has no names");
    const auto found = members->find(key);
    return found == members->end() ? nullptr : &found->second;
}

const Json& Json::at(const std::string& key) const {
    const Json* found = find(key);
    if (found == nullptr) throw wrong("'" + key + "' is missing");
    return *found;
}

const Json::Array& Json::array() const {
    if (const auto* found = std::get_if<Array>(&value_)) return *found;
    throw wrong("a list is none");
}

const std::string& Json::text() const {
    if (const auto* found = std::get_if<std::string>(&value_)) return *found;
    throw wrong("a text is none");
}

bool Json::boolean() const {
    if (const auto* found = std::get_if<bool>(&value_)) return *found;
    throw wrong("true or false is neither");
}

double Json::number() const {
    if (const auto* found = std::get_if<double>(&value_)) return *found;
    throw wrong("a number is none");
}

int Json::whole(int least, int most) const {
    const double value = number();
    if (!(value >= least && value <= most) || value != static_cast<int>(value)) throw wrong("a number is out of range");
    return static_cast<int>(value);
}

std::string quoted(const std::string& text) {
    std::string found = "\"";
    for (const char next : text) {
        if (next == '"' || next == '\\') {
            found += '\\';
            found += next;
        } else if (static_cast<unsigned char>(next) < 0x20) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(next));
            found += escape;
        } else {
            found += next;
        }
    }
    return found + '"';
}

}  // namespace rtmo
