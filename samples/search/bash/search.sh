#!/usr/bin/env bash
# search: the same interface as a CGI program (RFC 3875), in Bash: one process for every request.
#
#     QUERY_STRING='q=tcp' bash search.sh
#     GET /health          200
#     GET /anything?q=tcp  {"query": "tcp", "results": ["..."], "pid": 4121, "language": "bash"}
#
# The gateway tells of the request in environment variables, gives its body on standard input (we need none), and reads
# the answer from standard output: a few fields, an empty line, the body. The process ends, and with it all that it
# knew. There is no socket, no loop and no signal to handle: the price is a new process for every request.
set -euo pipefail
set -f # a * in a query is not a list of files
export LC_ALL=C.UTF-8

results_at_most=5

# The functions leave their result in REPLY, as `read` does: $(...) would cost a process each, and a last line feed.

# Undo the coding of forms: + is a space, %41 an A. A broken %, and %00, which Bash cannot hold, stay as they are.
decode() {
  local rest=${1//+/ } decoded='' byte
  while [[ $rest =~ ^([^%]*)%([0-9A-Fa-f]{2})?(.*)$ ]]; do
    byte=''
    [[ -z ${BASH_REMATCH[2]} ]] || printf -v byte '%b' "\\x${BASH_REMATCH[2]}"
    decoded+=${BASH_REMATCH[1]}${byte:-%${BASH_REMATCH[2]}}
    rest=${BASH_REMATCH[3]}
  done
  REPLY=$decoded$rest
}

# A text as JSON writes it: quotes, backslashes and control characters escaped; what is no UTF-8 becomes U+FFFD.
quote() {
  local text=$1 code hex character
  if ! iconv -f UTF-8 -t UTF-8 <<<"$text" >/dev/null 2>&1; then
    local LC_ALL=C # now a character is a byte
    text=${text//[$'\x80'-$'\xff']/$'\xef\xbf\xbd'}
  fi
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  for code in {1..31}; do
    printf -v hex '%02x' "$code"
    printf -v character '%b' "\\x$hex"
    text=${text//"$character"/\\u00$hex}
  done
  REPLY=\"$text\"
}

# Whether the fact in $1 has all the words that follow it.
has_all() {
  local fact=${1,,} word
  shift
  for word; do
    [[ $fact == *"$word"* ]] || return 1
  done
}

# The first parameter `q` of the query string in $1, still coded.
first_q() {
  local parameter IFS='&'
  REPLY=''
  for parameter in $1; do
    if [[ $parameter == q=* ]]; then
      REPLY=${parameter#q=}
      return
    fi
  done
}

search() {
  local line separator='' count=0
  first_q "$1"
  decode "$REPLY"
  local -a words=(${REPLY,,})
  quote "$REPLY"
  printf '{"query": %s, "results": [' "$REPLY"
  while ((${#words[@]} && count < results_at_most)) && IFS= read -r line; do
    line=${line#\"} # each line is a text as JSON writes it, and a comma
    line=${line%\",}
    if has_all "$line" "${words[@]}"; then
      printf '%s"%s"' "$separator" "$line"
      separator=', '
      count=$((count + 1))
    fi
  done <"${BASH_SOURCE[0]%/*}/../facts.inc"
  printf '], "pid": %d, "language": "bash"}\n' "$$"
}

printf 'Content-Type: application/json\r\n\r\n'
if [[ ${PATH_INFO:-} == */health || ${SCRIPT_NAME:-} == */health ]]; then
  printf '{"status": "ok", "pid": %d}\n' "$$"
else
  search "${QUERY_STRING:-}"
fi
