// search: the same worker in C#, for Mono: asynchronous, so that no thread waits for a client.
//
//     mono search.exe PORT or mono search.exe /PATH   listens on a port of this machine, or on a Unix socket
//     GET /health                                     200 as soon as it listens
//     GET /anything?q=tcp                             {"query": "tcp", "results": ["..."], "pid": 4121, ...}
//
// `await` hands the thread back until there is something to do; the method still reads from top to bottom, and the
// compiler makes a state machine of it. A few threads serve many connections. After SIGTERM it answers what has begun
// and exits with 0.
using System;
using System.Collections.Concurrent;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Net;
using System.Net.Sockets;
using System.Runtime.CompilerServices;
using System.Text;
using System.Text.RegularExpressions;
using System.Threading.Tasks;
using Mono.Unix;
using Mono.Unix.Native;

/// <summary>What can be found, and the documents that tell it.</summary>
static class Facts
{
    const int Results = 5;
    public static readonly int Pid = Process.GetCurrentProcess().Id;
    static readonly string[] All = Read();

    /// <summary>The facts beside this source file, which the compiler names: a string and a comma a line.</summary>
    static string[] Read([CallerFilePath] string source = "") =>
        File.ReadLines(Path.Combine(Path.GetDirectoryName(source), "..", "facts.inc"))
            .Select(line => line.TrimEnd(',').Trim('"')).ToArray();

    /// <summary>What the interface promises for a target such as /api/search?q=tcp.</summary>
    public static string Search(string target)
    {
        var coded = target.Split(new[] { '?' }, 2).Skip(1).SelectMany(parameters => parameters.Split('&'))
            .FirstOrDefault(part => part.StartsWith("q=", StringComparison.Ordinal)) ?? "q=";
        var query = WebUtility.UrlDecode(coded.Substring(2));
        var words = query.ToLowerInvariant().Split((char[])null, StringSplitOptions.RemoveEmptyEntries);
        var found = All.Where(fact => words.Any() && words.All(fact.ToLowerInvariant().Contains)).Take(Results);
        var results = string.Join(", ", found.Select(Quote));
        return $"{{\"query\": {Quote(query)}, \"results\": [{results}], \"pid\": {Pid}, \"language\": \"csharp\"}}\n";
    }

    /// <summary>The text as a JSON string.</summary>
    public static string Quote(string text) =>
        "\"" + string.Concat(text.Select(c => c < ' ' || "\"\\".Contains(c) ? $"\\u{(int)c:x4}" : c.ToString())) + "\"";
}

/// <summary>What a head without its empty line asks for, or why it is refused. No bodies: where a request ends, there
/// begins the next, or what an attacker wants to be taken for it (RFC 9112 section 11.2).</summary>
sealed class Request
{
    static readonly Regex First = new Regex(@"\A([A-Z]+) (\S+) HTTP/1\.([01])\r?\z");
    static readonly Regex Body = new Regex(@"^(Transfer-Encoding|Content-Length(?![:\s0]+$))", Options);
    static readonly Regex Last = new Regex(@"^Connection:.*close", Options);
    const RegexOptions Options = RegexOptions.Multiline | RegexOptions.IgnoreCase;
    public readonly string Method, Target, Wrong;
    public readonly bool Close;

    public Request(string head)
    {
        var first = First.Match(head.Split('\n')[0]);
        (Method, Target) = (first.Groups[1].Value, first.Groups[2].Value);
        Wrong = !first.Success ? "400 expected a first line like: GET /path HTTP/1.1"
            : Method != "GET" && Method != "HEAD" ? "405 expected GET or HEAD"
            : Body.IsMatch(head) ? "400 expected no body" : null;
        Close = Wrong != null || first.Groups[3].Value == "0" || Last.IsMatch(head);
    }

    public Request(int most) { (Wrong, Close) = ($"431 expected a head of at most {most} bytes", true); }
}

/// <summary>One client, served until one side has enough.</summary>
sealed class Connection
{
    const int Head = 8192;
    readonly Socket client;
    readonly byte[] received = new byte[Head];
    int count;

    public Connection(Socket client) { this.client = client; }

    /// <summary>Set when no connection may begin anything any more.</summary>
    public static volatile bool Stopping;

    /// <summary>Ends it if it is idle: whoever reads now gets the end of the stream.</summary>
    public void EndIfIdle()
    {
        try
        {
            if (count == 0) client.Shutdown(SocketShutdown.Receive);
        }
        catch (Exception error) when (HasGone(error))
        {
            // It has ended by itself.
        }
    }

    /// <summary>Whether an error only tells that there is no connection any more.</summary>
    public static bool HasGone(Exception error) =>
        error is IOException || error is SocketException || error is ObjectDisposedException;

    public async Task Converse()
    {
        using (client)
        using (var stream = new NetworkStream(client))
        {
            var last = false;
            while (!last)
            {
                // One read may bring half a request, or three of them.
                var end = EmptyLine();
                if (end < 0 && count < Head)
                {
                    if (count == 0 && Stopping) return;
                    var read = await stream.ReadAsync(received, count, Head - count);
                    if (read == 0) return;
                    count += read;
                    continue;
                }
                var answer = Encoding.UTF8.GetBytes(Answer(end, out last));
                await stream.WriteAsync(answer, 0, answer.Length);
                count = Math.Max(0, count - end - 4);
                Buffer.BlockCopy(received, end + 4, received, 0, count);
            }
            client.Shutdown(SocketShutdown.Send); // not both sides: unread input would destroy the answer on its way
            while (await stream.ReadAsync(received, 0, Head) > 0) { }
        }
    }

    /// <summary>Where the empty line begins that ends a head, or -1.</summary>
    int EmptyLine()
    {
        for (var i = 0; i + 4 <= count; i++)
            if (received[i] == '\r' && received[i + 1] == '\n' && received[i + 2] == '\r' && received[i + 3] == '\n')
                return i;
        return -1;
    }

    string Answer(int end, out bool last)
    {
        var request = end < 0 ? new Request(Head) : new Request(Encoding.UTF8.GetString(received, 0, end));
        last = request.Close || Stopping;
        var body = request.Wrong != null ? $"{{\"error\": {Facts.Quote(request.Wrong.Substring(4))}}}\n"
            : request.Target == "/health" ? $"{{\"status\": \"ok\", \"pid\": {Facts.Pid}}}\n"
            : Facts.Search(request.Target);
        return $"HTTP/1.1 {request.Wrong ?? "200 OK"}\r\nContent-Type: application/json\r\n"
            + $"Content-Length: {Encoding.UTF8.GetByteCount(body)}\r\n"
            + (request.Wrong != null ? "Allow: GET, HEAD\r\n" : "") + (last ? "Connection: close\r\n" : "")
            + "\r\n" + (request.Method == "HEAD" ? "" : body);
    }
}

static class Program
{
    static readonly ConcurrentDictionary<Connection, Task> Connections = new ConcurrentDictionary<Connection, Task>();

    static int Main(string[] arguments)
    {
        var place = arguments.FirstOrDefault() ?? Environment.GetEnvironmentVariable("PORT") ?? "";
        try
        {
            // The signals first: a worker that can be reached can be ended in order.
            using (var term = new UnixSignal(Signum.SIGTERM))
            using (var interrupt = new UnixSignal(Signum.SIGINT))
            using (var listener = Listen(place))
            {
                _ = Accept(listener); // goes on beside this thread, which only waits for a signal
                Console.Error.WriteLine($"search: pid {Facts.Pid} listens at {place}");
                // WaitAny overlooks a signal that came before it began to wait: so it begins anew twice a second.
                while (!term.IsSet && !interrupt.IsSet) UnixSignal.WaitAny(new[] { term, interrupt }, 500);
            }
        }
        catch (Exception error) when (error is SocketException || error is FormatException)
        {
            Console.Error.WriteLine($"search: {error.Message}");
            return 1;
        }
        Connection.Stopping = true;
        foreach (var connection in Connections.Keys) connection.EndIfIdle();
        Task.WaitAll(Connections.Values.ToArray());
        Syscall._exit(0); // all is done; Mono 6.8, taking its threads down on the way out, hangs once in fifty times
        return 0;
    }

    static Socket Listen(string place)
    {
        var local = place.StartsWith("/", StringComparison.Ordinal);
        if (!local && (!Regex.IsMatch(place, @"\A[0-9]{1,5}\z") || int.Parse(place) < 1 || int.Parse(place) > 65535))
            throw new FormatException($"found port '{place}', expected 1 to 65535");
        var listener = new Socket(
            local ? AddressFamily.Unix : AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(local ? (EndPoint)new UnixEndPoint(place) : new IPEndPoint(IPAddress.Loopback, int.Parse(place)));
        listener.Listen(511);
        return listener;
    }

    static async Task Accept(Socket listener)
    {
        while (true)
        {
            Socket client;
            try
            {
                client = await Task.Factory.FromAsync(listener.BeginAccept, listener.EndAccept, null);
            }
            catch (SocketException)
            {
                await Task.Delay(10); // no descriptor is left: until somebody hangs up
                continue;
            }
            if (client.AddressFamily == AddressFamily.InterNetwork) client.NoDelay = true; // an answer is one write
            var connection = new Connection(client);
            Connections[connection] = Serve(connection);
        }
    }

    static async Task Serve(Connection connection)
    {
        await Task.Yield(); // so that it is known before it can end
        try
        {
            await connection.Converse();
        }
        catch (Exception error) when (Connection.HasGone(error))
        {
            // The client has gone: nobody is left to tell.
        }
        Connections.TryRemove(connection, out _);
    }
}
