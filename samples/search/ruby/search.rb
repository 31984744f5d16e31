# frozen_string_literal: true

# search: the same worker in Ruby, with a thread for each connection.
#
#     ruby search.rb PORT, or ruby search.rb /PATH   listens on a port of this machine, or on a Unix socket
#     ruby search.rb                                 finds PORT or SOCKET in its environment, or with LISTEN_FDS=1 a
#                                                    listening socket as descriptor 3
#     GET /health                                    200 as soon as it listens
#     GET /anything?q=tcp                            {"query": "tcp", "results": ["..."], "pid": 4121, ...}
#
# A thread may simply wait: the code reads from top to bottom, and the others go on meanwhile. Only one thread runs Ruby
# at a time (the global VM lock), so threads save waiting for the network, never work for the processor.
# After SIGTERM it answers what has arrived and exits with 0.

require "json"
require "socket"
require "time"

RESULTS = 5
HEAD = 8192
EMPTY_LINE = "\r\n\r\n"
REQUEST_LINE = %r{\A([A-Z]+) ([!-~\x80-\xff]+) HTTP/1\.([0-9])\z}n
FIELD = /\A([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\z/n
FACTS = JSON.parse("[#{File.read(File.join(__dir__, '../facts.inc')).strip.chomp(',')}]").freeze

# The request is answered with the status in its message, "400 Bad Request: expected ...", and the connection closed.
class Refused < StandardError; end

# Method and target of a head, and whether it is its connection's last. Doubtful framing is refused: where two servers
# disagree about the end of a request, an attacker can hide a second one in the first (RFC 9112 section 11.2).
def parse(head)
  raise Refused, "431 Request Header Fields Too Large: expected a head of at most #{HEAD} bytes" if head.bytesize > HEAD

  first, *lines = head.delete_suffix(EMPTY_LINE).split("\r\n", -1)
  method, target, minor = REQUEST_LINE.match(first)&.captures
  raise Refused, "400 Bad Request: expected a first line like: GET /path HTTP/1.1" unless method
  raise Refused, "405 Method Not Allowed: expected GET or HEAD" unless %w[GET HEAD].include?(method)

  fields = lines.map { |line| FIELD.match(line)&.captures }
  raise Refused, "400 Bad Request: expected fields like Name: value, each ended by CR LF" unless fields.all?

  named = fields.group_by { |name, _| name.downcase }.transform_values { |same| same.map(&:last) }
  named.default = []
  raise Refused, "411 Length Required: expected no chunked body" if named.key?("transfer-encoding")
  raise Refused, "400 Bad Request: expected no body" unless named["content-length"].all?("0")
  raise Refused, "400 Bad Request: expected exactly one Host field" unless minor == "0" || named["host"].one?

  [method, target, minor == "0" || named["connection"].any?(/close/i)]
end

# Every fact that has all words of the first parameter `q`, as the interface promises it.
def search(target)
  written = target.partition("?").last.split("&").find { |text| text.start_with?("q=") }.to_s.delete_prefix("q=")
  query = written.tr("+", " ").gsub(/%(\h\h)/) { $1.hex.chr }.force_encoding("UTF-8").scrub
  words = query.downcase.split
  found = FACTS.select { |fact| words.any? && words.all? { |word| fact.downcase.include?(word) } }
  { query: query, results: found.first(RESULTS), pid: Process.pid, language: "ruby" }
end

# A whole response with `document` as its JSON body.
def response(status, document, close, method = "GET")
  body = "#{JSON.generate(document)}\n"
  head = ["HTTP/1.1 #{status}", "Date: #{Time.now.httpdate}", "Content-Type: application/json"]
  head << "Content-Length: #{body.bytesize}"
  head << "Allow: GET, HEAD" if status.start_with?("4")
  head << "Connection: close" if close
  "#{head.join("\r\n")}#{EMPTY_LINE}#{body unless method == 'HEAD'}"
end

# The listening socket, and a thread for everybody who is connected to it.
class Server
  def initialize(listener, inherited)
    @listener = listener
    @inherited = inherited
    @stopping = false
    @ending, @going_on = IO.pipe # the first becomes readable, for all threads, when the second is closed
  end

  # Serve until SIGTERM or SIGINT, which Ruby raises in the main thread.
  def run
    loop { admit(@listener.accept) }
  rescue SignalException
    stop
  end

  def admit(client)
    Thread.new { serve(client) }
  end

  # Listen no more, tell the threads, and wait for them. Who waits in the backlog of a socket of our own is taken in
  # first; an inherited one stays open elsewhere: there the next worker takes them.
  def stop
    while !@inherited && (client = @listener.accept_nonblock(exception: false)) != :wait_readable
      admit(client)
    end
    @stopping = true
    @listener.close
    @going_on.close
    (Thread.list - [Thread.main]).each(&:join)
  end

  # One connection, from the first request to the last.
  def serve(client)
    nil while more?(client) && answer(client)
    client.close_write # not close: unread input would destroy the answer on its way
    client.readpartial(HEAD) while more?(client)
  rescue SystemCallError, IOError
    nil # the client went away
  ensure
    client.close
  end

  # Wait for the first byte of a request; false at the end of the stream, or when this worker is to end.
  def more?(client)
    readable, = IO.select([client, @ending])
    readable.include?(client) && !client.eof?
  end

  # Answer one request; false when it was the last.
  def answer(client)
    head = client.gets(EMPTY_LINE, HEAD + 1)
    return false unless head.end_with?(EMPTY_LINE) || head.bytesize > HEAD

    method, target, close = parse(head)
    close ||= @stopping
    document = target == "/health" ? { status: "ok", pid: Process.pid } : search(target)
    client.write(response("200 OK", document, close, method))
    !close
  rescue Refused => e
    status, wrong = e.message.split(": ", 2)
    client.write(response(status, { error: wrong }, true))
    false
  end
end

# A new listening socket at a path or a port.
def listen(place)
  return UNIXServer.new(place) if place.start_with?("/")

  port = place.match?(/\A[0-9]{1,5}\z/) ? place.to_i : 0
  abort "search: found port '#{place}', expected 1 to 65535; usage: search.rb PORT" unless port.between?(1, 65_535)
  TCPServer.new("127.0.0.1", port)
rescue SystemCallError => e
  abort "search: cannot listen: #{e.message}"
end

place = ARGV.first || ENV["SOCKET"] || ENV.fetch("PORT", "")
inherited = ARGV.empty? && ENV["LISTEN_PID"] == Process.pid.to_s # sd_listen_fds(3)
server = Server.new(inherited ? TCPServer.for_fd(3) : listen(place), inherited)
where = inherited ? "descriptor 3" : place.start_with?("/") ? place : "127.0.0.1:#{place}"
warn "search: pid #{Process.pid} listens at #{where}"
server.run
File.unlink(place) if place.start_with?("/") && !inherited
