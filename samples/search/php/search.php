<?php
/* search: the same answers from PHP. There is no server in this file, and no loop: php-cgi or PHP-FPM hears the requests
 * by FastCGI, runs this program from its first line for each of them, and forgets every variable behind its last. That
 * is why PHP programs leak nothing, share nothing, and read their data again and again.
 *
 *     GET /health          200 with {"status": "ok", "pid": 4121}
 *     GET /anything?q=tcp  {"query": "tcp", "results": ["..."], "pid": 4121, "language": "php"}
 */

declare(strict_types=1);

const RESULTS = 5;
const FACTS = __DIR__ . '/../facts.inc';

/** Texts as JSON writes them, one a line, each with a comma behind it. */
function facts(): array
{
    return json_decode('[' . rtrim(file_get_contents(FACTS), ", \n") . ']', flags: JSON_THROW_ON_ERROR);
}

/** The first parameter `q`. `$_GET` would have the last one. */
function asked(string $queryString): string
{
    foreach (explode('&', $queryString) as $parameter) {
        if (str_starts_with($parameter, 'q=')) {
            return urldecode(substr($parameter, 2));
        }
    }
    return '';
}

/** Every fact that has all words of the query, at most `RESULTS`. */
function search(string $query): array
{
    $words = preg_split('/\s+/', strtolower($query), flags: PREG_SPLIT_NO_EMPTY);
    $hasAll = fn (string $fact): bool => array_filter($words, fn ($word) => !str_contains($fact, $word)) === [];
    $found = $words ? array_filter(facts(), fn ($fact) => $hasAll(strtolower($fact))) : [];
    return array_slice(array_values($found), 0, RESULTS);
}

function answer(array $document, int $status = 200): never
{
    http_response_code($status);
    header('Content-Type: application/json');
    // JSON carries nothing but UTF-8: whatever else a client wrote becomes U+FFFD.
    $flags = JSON_INVALID_UTF8_SUBSTITUTE | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_THROW_ON_ERROR;
    echo json_encode($document, $flags), "\n";
    exit;
}

if (!in_array($_SERVER['REQUEST_METHOD'], ['GET', 'HEAD'], true)) {
    header('Allow: GET, HEAD');
    answer(['error' => 'expected GET or HEAD'], 405);
}
// What follows the script's own address in the path (RFC 3875 4.1.5).
if (($_SERVER['PATH_INFO'] ?? '') === '/health') {
    answer(['status' => 'ok', 'pid' => getmypid()]);
}
$query = asked($_SERVER['QUERY_STRING'] ?? '');
answer(['query' => $query, 'results' => search($query), 'pid' => getmypid(), 'language' => 'php']);
