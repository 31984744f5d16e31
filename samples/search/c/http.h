/* One request of HTTP/1.1 and its answer, as bytes in memory (RFC 9112). Nothing here knows of sockets. */
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

struct request {
    const char *target;
    const char *wrong; /* status and reason when the request is refused, else NULL */
    bool head;         /* the answer goes without its body */
    bool close;        /* no further request comes on this connection */
};

static bool named(const char *line, const char *name) { return strncasecmp(line, name, strlen(name)) == 0; }

/* Read the fields. It is strict, for where two servers disagree about the end of a request, an attacker can hide a
 * second one in the first (RFC 9112 section 11.2). */
static const char *read_fields(char *line, struct request *r) {
    int hosts = 0;
    for (char *end; *line; line = end + 2) {
        size_t name = strcspn(line, ": \t\r\n");
        end = line + strcspn(line, "\r\n");
        if (!name || line[name] != ':' || strncmp(end, "\r\n", 2))
            return "400 Bad Request: expected fields like Name: value, each ended by CR LF";
        *end = '\0';
        const char *value = line + name + 1 + strspn(line + name + 1, " \t");
        if (named(line, "Transfer-Encoding:")) return "411 Length Required: expected no chunked body";
        if (named(line, "Content-Length:") && strcmp(value, "0")) return "400 Bad Request: expected no body";
        if (named(line, "Connection:")) r->close |= strcasestr(value, "close") != NULL;
        if (named(line, "Host:")) hosts++;
    }
    return hosts == 1 || r->close ? NULL : "400 Bad Request: expected exactly one Host field";
}

/* Read a head of `size` bytes, its empty line included. Returns why it is refused, or NULL. */
static const char *read_head(char *head, size_t size, struct request *r) {
    if (memcmp(head + size - 4, "\r\n\r\n", 4))
        return "431 Request Header Fields Too Large: expected a head of at most 8192 bytes";
    head[size - 2] = '\0';
    if (strlen(head) != size - 2) return "400 Bad Request: expected a head without NUL bytes";
    size_t method = strspn(head, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"), target = 0;
    if (method && head[method] == ' ') target = strcspn(head + method + 1, " \r\n");
    char *line = head + method + 1 + target;
    if (!target || strncmp(line, " HTTP/1.", 8) || !isdigit((unsigned char)line[8]) || strncmp(line + 9, "\r\n", 2))
        return "400 Bad Request: expected a first line like: GET /path HTTP/1.1";
    head[method] = *line = '\0';
    r->target = head + method + 1;
    r->head = strcmp(head, "HEAD") == 0;
    r->close = line[8] == '0';
    if (!r->head && strcmp(head, "GET")) return "405 Method Not Allowed: expected GET or HEAD";
    return read_fields(line + 11, r);
}

static struct request parse(char *head, size_t size) {
    struct request r = {.target = ""};
    r.wrong = read_head(head, size, &r);
    if (r.wrong) r.close = true; /* nobody knows where the next request begins */
    return r;
}

/* Write a whole answer with the JSON document `body`; returns its end. It takes 300 bytes and the body. */
static char *respond(char *to, const struct request *r, const char *body, const char *end) {
    const char *status = r->wrong ? r->wrong : "200 OK";
    to += sprintf(to, "HTTP/1.1 %.*s\r\n", (int)strcspn(status, ":"), status);
    to += strftime(to, 64, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", gmtime(&(time_t){time(NULL)}));
    to += sprintf(to, "Content-Type: application/json\r\nContent-Length: %td\r\n", end - body);
    if (r->wrong) to = stpcpy(to, "Allow: GET, HEAD\r\n");
    if (r->close) to = stpcpy(to, "Connection: close\r\n");
    to = stpcpy(to, "\r\n");
    return r->head ? to : mempcpy(to, body, (size_t)(end - body));
}
