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

/// <summary>A request is not answered but refused with this status.</summary>
sealed class RefusedException : Exception
{
    public readonly string Status;
    public RefusedException(string status, string wrong) : base(wrong) { Status = status; }
}

/// <summary>What a head asks for.</summary>
sealed class Request
{
    static readonly Regex First = new Regex(@"\A([A-Z]+) ([^\s]+) HTTP/1\.([01])\z");
    static readonly Regex Field = new Regex(@"\A([^\s:]+):[ \t]*([^\r\n\0]*?)[ \t]*\z");
    public readonly string Method, Target;
    public readonly bool Close;

    /// <summary>Reads a head without its empty line. Doubtful framing is refused: where two servers disagree about the
    /// end of a request, an attacker can hide a second one in the first (RFC 9112 section 11.2).</summary>
    public Request(string head)
    {
        var lines = head.Split(new[] { "\r\n" }, StringSplitOptions.None);
        var first = First.Match(lines[0]);
        var fields = lines.Skip(1).Select(line => Field.Match(line)).ToArray();
        if (!first.Success) throw Bad("expected a first line like: GET /path HTTP/1.1");
        (Method, Target, Close) = (first.Groups[1].Value, first.Groups[2].Value, first.Groups[3].Value == "0");
        if (Method != "GET" && Method != "HEAD")
            throw new RefusedException("405 Method Not Allowed", "expected GET or HEAD");
        if (!fields.All(field => field.Success)) throw Bad("expected fields like Name: value, each ended by CR LF");
        var named = fields.ToLookup(field => field.Groups[1].Value.ToLowerInvariant(), field => field.Groups[2].Value);
        if (named.Contains("transfer-encoding"))
            throw new RefusedException("411 Length Required", "expected no chunked body");
        if (named["content-length"].Any(length => length != "0")) throw Bad("expected no body");
        if (named["host"].Count() != 1 && !Close) throw Bad("expected exactly one Host field");
        Close |= named["connection"].Any(value => value.ToLowerInvariant().Contains("close"));
    }

    static RefusedException Bad(string wrong) => new RefusedException("400 Bad Request", wrong);
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
        try
        {
            const string tooLarge = "431 Request Header Fields Too Large";
            if (end < 0) throw new RefusedException(tooLarge, $"expected a head of at most {Head} bytes");
            var request = new Request(Encoding.UTF8.GetString(received, 0, end));
            last = request.Close || Stopping;
            var health = $"{{\"status\": \"ok\", \"pid\": {Facts.Pid}}}\n";
            var body = request.Target == "/health" ? health : Facts.Search(request.Target);
            return Response("200 OK", last ? "Connection: close\r\n" : "", body, request.Method == "HEAD");
        }
        catch (RefusedException refused)
        {
            last = true; // nobody knows where the next request begins
            var body = $"{{\"error\": {Facts.Quote(refused.Message)}}}\n";
            return Response(refused.Status, "Allow: GET, HEAD\r\nConnection: close\r\n", body, false);
        }
    }

    static string Response(string status, string fields, string body, bool headOnly)
    {
        var length = Encoding.UTF8.GetByteCount(body);
        var head = $"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{fields}\r\n";
        return headOnly ? head : head + body;
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
