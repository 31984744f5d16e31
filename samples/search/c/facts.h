/* What search knows, and how it says it: from the parameters of a request to a JSON document. */
#include <ctype.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUERY = 256, FACT = 160, FOUND = 5, BODY = 3072 };
static const char facts[][FACT] = {
#include "../facts.inc"
};
enum { FACTS = sizeof facts / FACT };
static char lowered[FACTS][FACT]; /* the facts in lower case, for a search ignores case */

/* To be called once, before the first search. */
static void learn(void) {
    setlocale(LC_CTYPE, "C.UTF-8"); /* for mbtowc */
    for (int i = 0; i < FACTS; i++)
        for (int j = 0; j < FACT; j++) lowered[i][j] = (char)tolower(facts[i][j]);
}

/* Decode text such as a+b%41, as far as there is room. A broken % stays as it is. */
static void decode(char *query, const char *text) {
    for (char *end = query + QUERY - 1; *text && query < end; text++) {
        bool escape = *text == '%' && isxdigit((unsigned char)text[1]) && isxdigit((unsigned char)text[2]);
        *query++ = escape ? (char)strtol((char[]){text[1], text[2], 0}, NULL, 16) : *text == '+' ? ' ' : *text;
        text += escape ? 2 : 0;
    }
}

/* Append text as a JSON string, up to 6 bytes for one; returns the new end. What is not UTF-8 becomes U+FFFD. */
static char *quote(char *to, const char *text) {
    *to++ = '"';
    for (int size; *text; text += size > 0 ? size : 1) {
        wchar_t c;
        size = mbtowc(&c, text, 4);
        c = size < 0 || c > 0x10FFFF ? 0xFFFD : c;
        to += sprintf(to, c < ' ' || c == '"' || c == '\\' || c == 0xFFFD ? "\\u%04x" : "%lc", (unsigned)c);
    }
    return stpcpy(to, "\"");
}

/* Write what is found for parameters such as a=b&q=tcp: the facts that have all words of the first q. */
static void search(char *to, char *parameters) {
    char query[QUERY] = "", *part;
    bool asked = false, lacking[FACTS] = {false};
    while ((part = strsep(&parameters, "&")) && strncmp(part, "q=", 2)) continue;
    if (part) decode(query, part + 2);
    to = stpcpy(quote(stpcpy(to, "{\"query\": "), query), ", \"results\": [");
    for (char *s = query; *s; s++) *s = (char)tolower((unsigned char)*s);
    for (char *word = strtok(query, " "); word; word = strtok(NULL, " "), asked = true)
        for (int i = 0; i < FACTS; i++) lacking[i] |= !strstr(lowered[i], word);
    for (int i = 0, found = 0; asked && i < FACTS && found < FOUND; i++)
        if (!lacking[i]) to += sprintf(to, "%s\"%s\"", found++ ? ", " : "", facts[i]);
    sprintf(to, "], \"pid\": %d, \"language\": \"c\"}\n", getpid());
}
