/*
 * search: the same worker in Java, with the HTTP server that comes with the JDK.
 *
 *     java -Dsource=search.java -cp CLASSES Main PORT   listens on that port (or on PORT in the environment)
 *     GET /health                                       200 as soon as it listens
 *     GET /anything?q=tcp                               {"query": "tcp", "results": ["..."], "pid": 4121, ...}
 *
 * A virtual machine takes a while to start and to warm up: it interprets at first, counts, and compiles what is called
 * often. So a Java worker makes a slow CGI program and a good citizen of a pool. The threads of an executor answer
 * requests side by side. After SIGTERM it answers what has begun and exits with 0.
 */

import static java.nio.charset.StandardCharsets.UTF_8;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** What can be found. A record is immutable: all threads may read it at once. */
record Facts(List<String> all) {
    private static final int RESULTS = 5;

    /** The facts beside the source: on each line a string in quotes, and a comma. */
    static Facts read() throws IOException {
        // A class file does not know where its source lies; the command line says it.
        Path file = Path.of(System.getProperty("source")).resolveSibling("../facts.inc");
        try (Stream<String> lines = Files.lines(file)) {
            return new Facts(lines.map(line -> line.substring(1, line.length() - 2)).toList());
        }
    }

    /** The first facts that have all words of the query. */
    List<String> search(String query) {
        List<String> words = Stream.of(lower(query).split("\\s+")).filter(word -> !word.isEmpty()).toList();
        if (words.isEmpty()) {
            return List.of();
        }
        return all.stream().filter(fact -> words.stream().allMatch(lower(fact)::contains)).limit(RESULTS).toList();
    }

    private static String lower(String text) {
        return text.toLowerCase(Locale.ROOT);
    }
}

class Main {
    private static final long PID = ProcessHandle.current().pid();
    private static final int THREADS = 64;

    public static void main(String[] arguments) throws IOException {
        String place = arguments.length > 0 ? arguments[0] : System.getenv().getOrDefault("PORT", "");
        if (!place.matches("[0-9]{1,5}") || Integer.parseInt(place) < 1 || Integer.parseInt(place) > 65535) {
            System.err.printf("search: found port '%s', expected 1 to 65535%n", place);
            System.exit(2);
        }
        Facts facts = Facts.read();
        System.setProperty("sun.net.httpserver.nodelay", "true"); // it writes twice: head, body
        var address = new InetSocketAddress(InetAddress.getLoopbackAddress(), Integer.parseInt(place));
        HttpServer server = HttpServer.create();
        ExecutorService threads = Executors.newFixedThreadPool(THREADS);
        server.setExecutor(threads);
        server.createContext("/", exchange -> answer(exchange, facts));
        // Before it listens: a worker that can be reached can be ended in order.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> finish(server, threads)));
        try {
            server.bind(address, 511);
        } catch (IOException taken) {
            System.err.printf("search: cannot listen on port %s: %s%n", place, taken.getMessage());
            Runtime.getRuntime().halt(1); // not exit, which would run the hook
        }
        server.start();
        System.err.printf("search: pid %d listens on port %s%n", PID, place);
    }

    /** SIGTERM makes the machine run this. It would end with 143 then; a worker that ended in order says 0. */
    private static void finish(HttpServer server, ExecutorService threads) {
        threads.shutdown(); // whatever was begun is finished, nothing else begins
        try {
            threads.awaitTermination(1, TimeUnit.MINUTES);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        server.stop(0);
        Runtime.getRuntime().halt(0);
    }

    private static void answer(HttpExchange exchange, Facts facts) throws IOException {
        try (exchange) {
            exchange.getRequestBody().transferTo(OutputStream.nullOutputStream()); // behind it comes the next request
            String method = exchange.getRequestMethod();
            if (!method.equals("GET") && !method.equals("HEAD")) {
                exchange.getResponseHeaders().set("Allow", "GET, HEAD");
                reply(exchange, 405, "{\"error\": \"expected GET or HEAD\"}\n");
            } else if (exchange.getRequestURI().getPath().equals("/health")) {
                reply(exchange, 200, "{\"status\": \"ok\", \"pid\": %d}\n".formatted(PID));
            } else {
                reply(exchange, 200, document(parameter(exchange.getRequestURI().getRawQuery()), facts));
            }
        }
    }

    private static void reply(HttpExchange exchange, int status, String text) throws IOException {
        byte[] body = text.getBytes(UTF_8);
        boolean head = exchange.getRequestMethod().equals("HEAD");
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, head ? -1 : body.length); // -1: no body
        if (!head) {
            exchange.getResponseBody().write(body);
        }
    }

    /** The first parameter `q`, decoded. */
    private static String parameter(String query) {
        return Stream.of(query == null ? new String[0] : query.split("&"))
                .filter(part -> part.startsWith("q="))
                .findFirst()
                .map(part -> URLDecoder.decode(part.substring(2), UTF_8))
                .orElse("");
    }

    /** What the interface promises. */
    private static String document(String query, Facts facts) {
        String results = facts.search(query).stream().map(Main::quote).collect(Collectors.joining(", "));
        return "{\"query\": %s, \"results\": [%s], \"pid\": %d, \"language\": \"java\"}\n"
                .formatted(quote(query), results, PID);
    }

    /** The text as a JSON string. */
    private static String quote(String text) {
        return text.chars()
                .mapToObj(c -> c < ' ' || c == '"' || c == '\\' ? "\\u%04x".formatted(c) : Character.toString(c))
                .collect(Collectors.joining("", "\"", "\""));
    }
}
