/* What search answers: the facts that have every word of a query, as a JSON document. Nothing here knows of sockets. */
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A document is at most 5 facts of 160 bytes, a query of 256 bytes written as \u0000 (6 each), and 100 around them. */
enum { QUERY = 256, RESULTS = 5, FACT = 160, DOCUMENT = 3072 };

static const char facts[][FACT] = {
#include "../facts.inc"
};
static char lowered[sizeof facts / FACT][FACT]; /* the facts in lower case: a search ignores case */

static void lower(char *to, const char *from) {
    while ((*to++ = (char)tolower((unsigned char)*from++))) continue;
}

/* Bytes of the UTF-8 character at s; 0 if it is none: too long, a surrogate, beyond U+10FFFF (RFC 3629 section 4). */
static size_t utf8(const unsigned char *s) {
    size_t length = *s < 0x80 ? 1 : *s < 0xC2 ? 0 : *s < 0xE0 ? 2 : *s < 0xF0 ? 3 : *s < 0xF5 ? 4 : 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if ((*s == 0xE0 && s[1] < 0xA0) || (*s == 0xED && s[1] > 0x9F)) return 0;
    if ((*s == 0xF0 && s[1] < 0x90) || (*s == 0xF4 && s[1] > 0x8F)) return 0;
    return length;
}

/* Append `text` as a JSON string; returns the new end. */
static char *quote(char *to, const char *text) {
    *to++ = '"';
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        size_t length = utf8(s);
        if (length == 0) to = stpcpy(to, "\\ufffd"), s++;
        else if (*s < ' ' || *s == '"' || *s == '\\') to += sprintf(to, "\\u%04x", *s++);
        else to = mempcpy(to, s, length), s += length;
    }
    *to++ = '"';
    return to;
}

/* The first parameter `q`, decoded: `+` is a space and `%41` an A. A broken `%`, and `%00`, stay as they are. */
static void decode(const char *target, char query[QUERY]) {
    const char *s = strchr(target, '?');
    while (s && strncmp(s + 1, "q=", 2) != 0) s = strchr(s + 1, '&');
    char *end = query + QUERY - 1;
    for (s = s ? s + 3 : ""; *s && *s != '&' && query < end; s++) {
        bool escape = *s == '%' && isxdigit((unsigned char)s[1]) && isxdigit((unsigned char)s[2]);
        int byte = escape ? (int)strtol((char[]){s[1], s[2], 0}, NULL, 16) : 0;
        *query++ = byte ? (char)byte : *s == '+' ? ' ' : *s;
        if (byte) s += 2;
    }
    *query = '\0';
}

/* Write the document for a target such as /api/search?q=tcp, at most DOCUMENT bytes; returns its end. */
static char *search(char *to, const char *target) {
    char query[QUERY], *words[QUERY], *rest = query;
    size_t count = 0, found = 0;
    decode(target, query);
    to = stpcpy(quote(stpcpy(to, "{\"query\": "), query), ", \"results\": [");
    lower(query, query);
    while ((words[count] = strsep(&rest, " "))) count += *words[count] != '\0';
    for (size_t i = 0; i < sizeof facts / FACT && found < RESULTS && count; i++) {
        size_t have = 0;
        if (!*lowered[i]) lower(lowered[i], facts[i]);
        while (have < count && strstr(lowered[i], words[have])) have++;
        if (have == count) to = quote(stpcpy(to, found++ ? ", " : ""), facts[i]);
    }
    return to + sprintf(to, "], \"pid\": %d, \"language\": \"c\"}\n", getpid());
}
