// search: the same worker in C++20: a thread for each connection, and every resource has an owner.
//
//     search PORT, search /PATH   listens on a port of this machine (or on $PORT), or on a Unix socket;
//                                 with LISTEN_FDS it inherits the listening socket as descriptor 3
//     GET /anything?q=tcp         {"query": "tcp", "results": ["..."], "pid": 4121, "language": "cpp"}
//
// A constructor takes a resource and the destructor gives it back, on every way out of a scope, exceptions included:
// nothing here is closed or freed by hand. After SIGTERM it answers what has begun, and exits with 0.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <clocale>
#include <csignal>
#include <cwchar>
#include <iostream>
#include <memory>
#include <ranges>
#include <sstream>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

using std::string, std::string_view;

constexpr string_view facts[] = {
#include "../facts.inc"
};
constexpr std::size_t most_results = 5, longest_head = 8192;

// What stands before `end`, which is cut off from `rest` together with it; everything when there is none.
string_view take(string_view& rest, string_view end) {
    auto taken = rest.substr(0, rest.find(end));
    rest.remove_prefix(std::min(taken.size() + end.size(), rest.size()));
    return taken;
}

string lower(string_view text) {
    string lowered(text);
    std::ranges::transform(text, lowered.begin(), [](unsigned char c) { return std::tolower(c); });
    return lowered;
}

// `+` is a space and `%41` an A. A broken `%` stays as it is.
string decode(string_view text) {
    constexpr auto is_hex = [](unsigned char c) { return std::isxdigit(c); };
    string decoded;
    for (; !text.empty(); text.remove_prefix(1)) {
        unsigned char byte = text[0] == '+' ? ' ' : text[0];
        auto digits = text.substr(1, 2);
        if (byte == '%' && digits.size() == 2 && std::ranges::all_of(digits, is_hex)) {
            std::from_chars(digits.data(), digits.data() + 2, byte, 16);
            text.remove_prefix(2);
        }
        decoded += static_cast<char>(byte);
    }
    return decoded;
}

// The text as a JSON string; what is not UTF-8 becomes U+FFFD.
string quote(string_view text) {
    string quoted = "\"";
    while (!text.empty()) {
        wchar_t c = 0;
        std::mbstate_t state{};
        auto size = std::mbrtowc(&c, text.data(), text.size(), &state);
        bool broken = size > text.size() || c > 0x10FFFF;
        char escape[8];
        std::snprintf(escape, sizeof escape, "\\u%04x", broken ? 0xFFFD : static_cast<unsigned>(c));
        size = broken ? 1 : std::max<std::size_t>(size, 1);
        quoted += broken || c < ' ' || c == '"' || c == '\\' ? escape : text.substr(0, size);
        text.remove_prefix(size);
    }
    return quoted + '"';
}

// The facts that have all words of the first `q` among parameters such as a=b&q=tcp.
string search(string_view parameters) {
    string query, results, word;
    while (!parameters.empty())
        if (auto part = take(parameters, "&"); part.starts_with("q=")) {
            query = decode(part.substr(2));
            break;
        }
    std::istringstream split(lower(query));
    std::vector<string> words{std::istream_iterator<string>(split), {}};
    auto has_all = [&](string_view fact) {
        return std::ranges::all_of(words, [text = lower(fact)](auto& word) { return text.find(word) != text.npos; });
    };
    for (auto fact : facts | std::views::filter(has_all) | std::views::take(words.empty() ? 0 : most_results))
        results += (results.empty() ? "" : ", ") + quote(fact);
    return "{\"query\": " + quote(query) + ", \"results\": [" + results + "], \"pid\": " + std::to_string(getpid()) +
           ", \"language\": \"cpp\"}\n";
}

// The answer to a head; sets `last` when nothing may follow it. No bodies: where a request ends, there begins the next,
// or what an attacker wants to be taken for it (RFC 9112 section 11.2).
string answer(string_view head, bool& last) {
    bool too_long = head.size() >= longest_head;
    auto first = take(head, "\n");
    auto method = take(first, " "), target = take(first, " "), path = take(target, "?");
    string status = "200 OK";
    if (method != "GET" && method != "HEAD") status = "405 expected GET or HEAD";
    if (!first.starts_with("HTTP/1.")) status = "400 expected a first line like: GET /path HTTP/1.1";
    last = last || first.starts_with("HTTP/1.0");
    while (!head.empty()) {
        auto field = lower(take(head, "\n"));
        bool length = field.starts_with("content-length") && field.find_first_not_of(": \t0\r", 14) != field.npos;
        if (length || field.starts_with("transfer-encoding")) status = "400 expected no body";
        if (field.starts_with("connection:") && field.find("close") != field.npos) last = true;
    }
    if (too_long) status = "431 expected a head of less than 8192 bytes";

    bool refused = status != "200 OK";
    last = last || refused;
    auto body = refused             ? "{\"error\": \"" + status.substr(4) + "\"}\n"
                : path == "/health" ? "{\"status\": \"ok\", \"pid\": " + std::to_string(getpid()) + "}\n"
                                    : search(target);
    std::ostringstream text;
    text << "HTTP/1.1 " << status << "\r\nContent-Type: application/json\r\nContent-Length: " << body.size() << "\r\n"
         << (refused ? "Allow: GET, HEAD\r\n" : "") << (last ? "Connection: close\r\n" : "") << "\r\n"
         << (method == "HEAD" ? "" : body);
    return text.str();
}

// An open file. It cannot be copied: two owners would close it twice.
struct Descriptor {
    const int number;
    Descriptor(int made, const string& what) : number(made) {
        if (made < 0) throw std::system_error(errno, std::generic_category(), what);
    }
    Descriptor(const Descriptor&) = delete;
    ~Descriptor() { close(number); }
};

// Wait for something to read or accept, or for a signal: tells which of them is there.
std::pair<bool, bool> wait(const Descriptor& socket, const Descriptor& signals) {
    pollfd watched[] = {{socket.number, POLLIN, 0}, {signals.number, POLLIN, 0}};
    while (poll(watched, 2, -1) < 0) continue; // it was frozen and thawed: wait again
    return {watched[0].revents != 0, watched[1].revents != 0};
}

std::atomic<int> clients = 0;

// A client, counted as long as it is there.
struct Client : Descriptor {
    explicit Client(int made) : Descriptor(made, "accept") { ++clients; }
    ~Client() {
        --clients;
        clients.notify_all();
    }

    // Serve it until one side has enough. A read may bring half a request, or three of them.
    void converse(const Descriptor& signals) const {
        string received, answers;
        char chunk[longest_head];
        for (bool last = false; !last; answers.clear()) {
            auto [readable, stopping] = wait(*this, signals);
            if (!readable && received.empty()) return; // idle, and a signal came
            auto count = recv(number, chunk, sizeof chunk, 0);
            if (count <= 0) return;
            received.append(chunk, static_cast<std::size_t>(count));
            for (std::size_t end; !last && (end = received.find("\r\n\r\n")) != string::npos;) {
                last = stopping;
                answers += answer(string_view(received).substr(0, end), last);
                received.erase(0, end + 4);
            }
            if (!last && received.size() >= longest_head) answers += answer(received, last);
            for (ssize_t sent; !answers.empty(); answers.erase(0, static_cast<std::size_t>(sent)))
                if ((sent = send(number, answers.data(), answers.size(), MSG_NOSIGNAL)) < 0) return;
        }
        shutdown(number, SHUT_WR); // not yet close: unread input would destroy the answer on its way
        while (recv(number, chunk, sizeof chunk, 0) > 0) continue;
    }
};

// The listening socket: inherited, as sd_listen_fds(3) describes it, or a new one at a path or a port.
Descriptor listen_at(string_view given) {
    if (given.empty() && std::getenv("LISTEN_FDS")) return {3, "inherited"};
    string place(given.empty() && std::getenv("PORT") ? std::getenv("PORT") : given);
    bool local = place.starts_with('/');
    sockaddr_un path{AF_UNIX, ""};
    sockaddr_in port{AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {}};
    place.copy(path.sun_path, sizeof path.sun_path - 1);
    auto [end, error] = std::from_chars(place.data(), place.data() + place.size(), port.sin_port);
    if (!local && (error != std::errc() || *end || port.sin_port == 0))
        throw std::invalid_argument("found port '" + place + "', expected 1 to 65535");
    port.sin_port = htons(port.sin_port);
    int made = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    auto address = local ? reinterpret_cast<sockaddr*>(&path) : reinterpret_cast<sockaddr*>(&port);
    bool bound = bind(made, address, local ? sizeof path : sizeof port) == 0 && listen(made, SOMAXCONN) == 0;
    return {bound ? made : -1, "cannot listen at " + place};
}

int main(int argc, char** argv) try {
    std::setlocale(LC_CTYPE, "C.UTF-8"); // for mbrtowc
    sigset_t term; // blocked before there are threads: they inherit it
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, nullptr);
    // Nobody reads it, so it stays readable, and every thread sees it.
    static const Descriptor signals(signalfd(-1, &term, SFD_CLOEXEC), "signalfd");
    {
        auto listener = listen_at(argc > 1 ? argv[1] : "");
        fcntl(listener.number, F_SETFL, O_NONBLOCK); // where workers share it, another one may be faster
        while (!wait(listener, signals).second) try {
            auto client = std::make_unique<Client>(accept4(listener.number, nullptr, nullptr, SOCK_CLOEXEC));
            int yes = 1;
            setsockopt(client->number, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); // an answer is one write
            std::thread([client = std::move(client)] { client->converse(signals); }).detach();
        } catch (const std::system_error&) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1)); // another worker has it, or no file is left
        }
    } // here the listener closes
    for (int left; (left = clients) > 0;) clients.wait(left);
} catch (const std::exception& error) {
    std::cerr << "search: " << error.what() << '\n';
    return 1;
}
