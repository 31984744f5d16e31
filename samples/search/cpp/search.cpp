// search: the same worker in C++17: a thread for each connection, and every resource has an owner.
//
//     search PORT or search /PATH   listens on a port of this machine, or on a Unix socket
//     search                        takes PORT, or with LISTEN_FDS=1 the listening socket inherited as descriptor 3
//     GET /health                   200 as soon as it listens
//     GET /anything?q=tcp           {"query": "tcp", "results": ["..."], "pid": 4121, "language": "cpp"}
//
// A constructor takes a resource and the destructor gives it back, on every way out of a scope, exceptions included: no
// function here closes, frees or unlocks at its end, and nothing leaks. After SIGTERM it answers what has begun and
// exits with 0.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

using namespace std::string_literals;
using namespace std::string_view_literals;

namespace {

constexpr std::string_view facts[] = {
#include "../facts.inc"
};
constexpr std::size_t most_results = 5, longest_head = 8192;

// An open file. It can be handed over, not copied: two owners would close it twice.
class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Descriptor& operator=(Descriptor&&) = delete;
    ~Descriptor() { if (number_ >= 0) close(number_); }
    int number() const { return number_; }

private:
    int number_;
};

// Threads that come and go; its end waits for theirs.
class Crew {
public:
    template <class Work> void run(Work work) {
        std::lock_guard lock(mutex_);
        std::thread([this, work = std::move(work)]() mutable {
            work();
            std::lock_guard lock(mutex_);
            if (--busy_ == 0) idle_.notify_all();
        }).detach();
        ++busy_;
    }
    ~Crew() {
        std::unique_lock lock(mutex_);
        idle_.wait(lock, [this] { return busy_ == 0; });
    }

private:
    std::mutex mutex_;
    std::condition_variable idle_;
    int busy_ = 0;
};

struct Refused { // thrown for a request that is not answered
    std::string_view status, wrong;
};
struct Request {
    std::string_view method, target;
    bool close;
};

// What stands before `end`, which is cut off from `rest` together with it; everything when there is none.
std::string_view take(std::string_view& rest, std::string_view end) {
    auto size = std::min(rest.find(end), rest.size());
    auto taken = rest.substr(0, size);
    rest.remove_prefix(std::min(size + end.size(), rest.size()));
    return taken;
}

std::string lower(std::string_view text) {
    std::string lowered(text);
    std::transform(text.begin(), text.end(), lowered.begin(), [](unsigned char c) { return std::tolower(c); });
    return lowered;
}

// Read a head without its empty line. Doubtful framing is refused: where two servers disagree about the end of a
// request, an attacker can hide a second one in the first (RFC 9112 section 11.2).
Request parse(std::string_view head) {
    constexpr auto bad = "400 Bad Request"sv;
    auto first = take(head, "\r\n");
    auto method = take(first, " "), target = take(first, " ");
    if (method.empty() || target.empty() || (first != "HTTP/1.1" && first != "HTTP/1.0"))
        throw Refused{bad, "expected a first line like: GET /path HTTP/1.1"};
    if (method != "GET" && method != "HEAD") throw Refused{"405 Method Not Allowed", "expected GET or HEAD"};
    Request request{method, target, first == "HTTP/1.0"};
    int hosts = 0;
    while (!head.empty()) {
        auto line = take(head, "\r\n"), value = line;
        auto name = lower(take(value, ":"));
        if (name.empty() || name.size() == line.size() || name.find_first_of(" \t") != name.npos ||
            line.find_first_of("\r\n\0"sv) != line.npos)
            throw Refused{bad, "expected fields like Name: value, each ended by CR LF"};
        value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
        if (name == "transfer-encoding") throw Refused{"411 Length Required", "expected no chunked body"};
        if (name == "content-length" && value != "0") throw Refused{bad, "expected no body"};
        if (name == "connection" && lower(value).find("close") != value.npos) request.close = true;
        if (name == "host") ++hosts;
    }
    if (hosts != 1 && first == "HTTP/1.1") throw Refused{bad, "expected exactly one Host field"};
    return request;
}

// The first parameter `q`, decoded: `+` is a space and `%41` an A. A broken `%` stays as it is.
std::string decode(std::string_view target) {
    take(target, "?");
    std::string_view text;
    while (!target.empty() && text.data() == nullptr)
        if (auto part = take(target, "&"); part.substr(0, 2) == "q=") text = part.substr(2);
    std::string decoded;
    for (std::size_t i = 0; i < text.size(); i++) {
        unsigned char byte = 0;
        auto digits = text.substr(i + 1 < text.size() ? i + 1 : text.size(), 2);
        auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), byte, 16);
        bool escaped = text[i] == '%' && error == std::errc() && end == digits.data() + 2;
        decoded += escaped ? static_cast<char>(byte) : text[i] == '+' ? ' ' : text[i];
        if (escaped) i += 2;
    }
    return decoded;
}

// Bytes of the UTF-8 character that `text` begins with; 0 if it is none (RFC 3629).
std::size_t utf8(std::string_view text) {
    constexpr char32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char lead = text[0];
    std::size_t size = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
    if (size == 0 || size > text.size()) return 0;
    char32_t character = size == 1 ? lead : lead & (0x7F >> size);
    for (unsigned char next : text.substr(1, size - 1)) {
        if (next >> 6 != 2) return 0;
        character = character << 6 | (next & 0x3F);
    }
    bool surrogate = character >= 0xD800 && character <= 0xDFFF;
    return character < least[size] || character > 0x10FFFF || surrogate ? 0 : size;
}

// The text as a JSON string.
std::string quote(std::string_view text) {
    std::string quoted = "\"";
    while (!text.empty()) {
        auto size = utf8(text);
        char escaped[8];
        std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned char>(text[0]));
        bool plain = size > 1 || (static_cast<unsigned char>(text[0]) >= ' ' && text[0] != '"' && text[0] != '\\');
        quoted += size == 0 ? "\\ufffd" : plain ? text.substr(0, size) : escaped;
        text.remove_prefix(std::max<std::size_t>(size, 1));
    }
    return quoted + '"';
}

// Every fact that has all words of the query, as the interface promises it.
std::string search(std::string_view target) {
    auto query = decode(target);
    std::istringstream split(lower(query));
    std::vector<std::string> words{std::istream_iterator<std::string>(split), {}};
    std::string results;
    std::size_t found = 0;
    for (auto fact : facts) {
        auto has = [text = lower(fact)](const std::string& word) { return text.find(word) != text.npos; };
        if (words.empty() || found == most_results || !std::all_of(words.begin(), words.end(), has)) continue;
        results += (found++ ? ", " : "") + quote(fact);
    }
    auto who = "\"pid\": " + std::to_string(getpid()) + ", \"language\": \"cpp\"";
    return "{\"query\": " + quote(query) + ", \"results\": [" + results + "], " + who + "}\n";
}

// A whole response; `close` tells the client that it is the last one.
std::string response(std::string_view status, const std::string& body, bool close, bool head_only = false) {
    std::ostringstream text;
    text << "HTTP/1.1 " << status << "\r\nContent-Type: application/json\r\nContent-Length: " << body.size() << "\r\n"
         << (status.substr(0, 3) == "405" ? "Allow: GET, HEAD\r\n" : "") << (close ? "Connection: close\r\n" : "")
         << "\r\n" << (head_only ? "" : body);
    return text.str();
}

// The answer to a head; sets `last` when it is the last one of its connection.
std::string answer(std::string_view head, bool& last) try {
    auto request = parse(head);
    last = last || request.close;
    auto health = "{\"status\": \"ok\", \"pid\": " + std::to_string(getpid()) + "}\n";
    auto body = request.target == "/health" ? health : search(request.target);
    return response("200 OK", body, last, request.method == "HEAD");
} catch (const Refused& refused) {
    last = true;
    return response(refused.status, "{\"error\": " + quote(refused.wrong) + "}\n", last);
}

// Wait for something to read or accept, or for a signal: tells which of them is there.
std::pair<bool, bool> wait(const Descriptor& socket, const Descriptor& signals) {
    pollfd watched[] = {{socket.number(), POLLIN, 0}, {signals.number(), POLLIN, 0}};
    while (poll(watched, 2, -1) < 0) continue; // it was frozen and thawed: wait again
    return {watched[0].revents != 0, watched[1].revents != 0};
}

bool send_all(const Descriptor& client, std::string_view text) {
    while (!text.empty()) {
        auto sent = send(client.number(), text.data(), text.size(), MSG_NOSIGNAL);
        if (sent < 0) return false;
        text.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
}

// Serve one client until one side has enough. A read may bring half a request, or three of them.
void converse(const Descriptor& client, const Descriptor& signals) {
    std::string received;
    char chunk[longest_head];
    for (bool last = false; !last;) {
        auto [readable, stopping] = wait(client, signals);
        if (!readable && received.empty()) return; // idle, and a signal came
        auto count = recv(client.number(), chunk, sizeof chunk, 0);
        if (count <= 0) return; // the client hung up
        received.append(chunk, static_cast<std::size_t>(count));
        std::string answers;
        for (auto end = received.find("\r\n\r\n"); end != received.npos && !last; end = received.find("\r\n\r\n")) {
            bool close = stopping;
            answers += answer(std::string_view(received).substr(0, end), close);
            received.erase(0, end + 4);
            last = close;
        }
        if (!last && received.size() >= longest_head) {
            last = true;
            auto body = "{\"error\": \"expected a head of at most 8192 bytes\"}\n"s;
            answers += response("431 Request Header Fields Too Large", body, last);
        }
        if (!send_all(client, answers)) return;
    }
    shutdown(client.number(), SHUT_WR); // not yet close: unread input would destroy the answer on its way
    timeval patience{1, 0};
    setsockopt(client.number(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    while (recv(client.number(), chunk, sizeof chunk, 0) > 0) continue;
}

// Raised by a failed system call, with what the kernel said.
std::system_error failed(const std::string& what) { return {errno, std::generic_category(), what}; }

// The listening socket: inherited, as sd_listen_fds(3) describes it, or a new one at a path or a port.
Descriptor listen_at(const char* given) {
    if (!given && std::getenv("LISTEN_FDS")) return Descriptor(3);
    std::string text = given ? given : std::getenv("PORT") ? std::getenv("PORT") : "";
    sockaddr_un path{AF_UNIX, {}};
    sockaddr_in port{AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {}};
    bool local = text.front() == '/';
    if (local) {
        text.copy(path.sun_path, sizeof path.sun_path - 1);
    } else {
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port.sin_port);
        if (error != std::errc() || end != text.data() + text.size() || port.sin_port == 0)
            throw std::invalid_argument("found port '" + text + "', expected 1 to 65535");
        port.sin_port = htons(port.sin_port);
    }
    Descriptor listener(socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int yes = 1;
    setsockopt(listener.number(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    auto address = local ? reinterpret_cast<sockaddr*>(&path) : reinterpret_cast<sockaddr*>(&port);
    if (bind(listener.number(), address, local ? sizeof path : sizeof port) < 0) throw failed("cannot bind " + text);
    if (listen(listener.number(), SOMAXCONN) < 0) throw failed("cannot listen at " + text);
    std::cerr << "search: pid " << getpid() << " listens at " << text << '\n';
    return listener;
}

// A descriptor that SIGTERM or SIGINT makes readable. Nobody reads it: it stays so, and every thread can see it.
Descriptor catch_signals() {
    sigset_t asked;
    sigemptyset(&asked);
    sigaddset(&asked, SIGTERM);
    sigaddset(&asked, SIGINT);
    sigprocmask(SIG_BLOCK, &asked, nullptr); // before there are threads: they inherit it
    return Descriptor(signalfd(-1, &asked, SFD_CLOEXEC));
}

void serve(const char* given) {
    auto signals = catch_signals();
    Crew crew;
    auto listener = listen_at(given);
    fcntl(listener.number(), F_SETFL, O_NONBLOCK); // where workers share it, another one may be faster
    while (!wait(listener, signals).second) {
        Descriptor client(accept4(listener.number(), nullptr, nullptr, SOCK_CLOEXEC));
        if (client.number() < 0) {
            if (errno == EMFILE) std::this_thread::sleep_for(std::chrono::milliseconds(10)); // until somebody hangs up
            continue;
        }
        int yes = 1;
        setsockopt(client.number(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); // an answer is one write
        crew.run([client = std::move(client), &signals] { converse(client, signals); });
    }
} // here the listener closes, then the crew is waited for: what was made last goes first

} // namespace

int main(int argc, char** argv) try {
    serve(argc > 1 ? argv[1] : nullptr);
} catch (const std::exception& error) {
    std::cerr << "search: " << error.what() << '\n';
    return 1;
}
