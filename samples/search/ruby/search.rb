# frozen_string_literal: true

# search: the same worker in Ruby, with a thread for each connection.
#
#     ruby search.rb PORT    listens on a port of this machine; with /PATH on a Unix socket
#     ruby search.rb         finds PORT or SOCKET in its environment, or with LISTEN_FDS=1 a listening socket as
#                            descriptor 3
#     GET /health            200 as soon as it listens
#     GET /anything?q=tcp    {"query": "tcp", "results": ["..."], "pid": 4121, "language": "ruby"}
#
# A thread may simply wait: the code reads from top to bottom, and the others go on meanwhile. Only one thread runs Ruby
# at a time (the global VM lock), so threads save waiting for the network, never work for the processor.
# After SIGTERM it answers what has arrived and exits with 0.

require "json"
require "socket"
require "time"

RESULTS = 5
HEAD = 8192
FACTS = JSON.parse("[#{File.read(File.join(__dir__, '../facts.inc')).strip.chomp(',')}]").freeze

# A whole head. Whatever else comes is refused: where two servers disagree about the end of a request, an attacker can
# hide a second one in the first (RFC 9112 section 11.2).
REQUEST = %r{
  \A([A-Z]+)\ ([!-~\x80-\xff]+)\ HTTP/1\.([0-9])\r\n
  ((?:[!\#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r\n)*)\r\n\z
}nx

BODY = /^(transfer-encoding:|content-length:[ \t]*(?!0[ \t]*\r))/i

# The request is answered with the status in its message, "400 Bad Request: expected ...", and the connection closed.
class Refused < StandardError; end

# Method and target of a head, and whether it is its connection's last.
def parse(head)
  method, target, minor, fields = REQUEST.match(head)&.captures
  raise Refused, "431 Request Header Fields Too Large: expected a head of at most #{HEAD} bytes" if head.bytesize > HEAD
  raise Refused, "400 Bad Request: expected GET /path HTTP/1.1, then fields like Name: value, with CR LF" unless method
  raise Refused, "405 Method Not Allowed: expected GET or HEAD" unless %w[GET HEAD].include?(method)
  raise Refused, "400 Bad Request: expected no body" if fields.match?(BODY)

  [method, target, minor == "0" || fields.match?(/^connection:.*close/i)]
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
  "#{head.join("\r\n")}\r\n\r\n#{body unless method == 'HEAD'}"
end

# Becomes readable, for all threads at once, when this worker is to end: at the end of its stream.
ENDING, GOING_ON = IO.pipe

def ending? = GOING_ON.closed?

# Wait for the first byte of a request; false at the end of the stream, or when this worker is to end.
def more?(client)
  readable, = IO.select([client, ENDING])
  readable.include?(client) && !client.eof?
end

# Answer one request; false when it was the last.
def answer(client)
  head = client.gets("\r\n\r\n", HEAD + 1) # as many reads as it takes
  return false unless head.end_with?("\r\n\r\n") || head.bytesize > HEAD

  method, target, close = parse(head)
  close ||= ending?
  document = target == "/health" ? { status: "ok", pid: Process.pid } : search(target)
  client.write(response("200 OK", document, close, method))
  !close
rescue Refused => e
  status, wrong = e.message.split(": ", 2)
  client.write(response(status, { error: wrong }, true))
  false
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

# A new listening socket at a path or a port.
def listen(place)
  return UNIXServer.new(place) if place.start_with?("/")

  port = place.match?(/\A[0-9]{1,5}\z/) ? place.to_i : 0
  abort "search: found port '#{place}', expected 1 to 65535; usage: search.rb PORT" unless port.between?(1, 65_535)
  TCPServer.new("127.0.0.1", port)
rescue SystemCallError => e
  abort "search: cannot listen: #{e.message}"
end

# A signal becomes one more thing to wait for. That comes before listening: whoever gets through to this worker can also
# end it in order.
noticed, asked = IO.pipe
%w[TERM INT].each { |name| trap(name) { asked.write_nonblock(".", exception: false) } }

place = ARGV.first || ENV["SOCKET"] || ENV.fetch("PORT", "")
inherited = ARGV.empty? && ENV["LISTEN_PID"] == Process.pid.to_s # sd_listen_fds(3)
listener = inherited ? TCPServer.for_fd(3) : listen(place)
warn "search: pid #{Process.pid} listens at #{inherited ? 'descriptor 3' : place}"

# Take in whoever waits. Of a shared socket, another worker may have been quicker.
admit = lambda do
  client = listener.accept_nonblock(exception: false)
  Thread.new { serve(client) } unless client == :wait_readable
end
admit.call until IO.select([listener, noticed]).first.include?(noticed)

# Who waits in the backlog of a socket of our own is taken in first, and no more than fit there: who keeps coming must
# not keep it from its end. An inherited one stays open elsewhere: there the next worker takes them.
Socket::SOMAXCONN.times { break if inherited || !admit.call }
listener.close
GOING_ON.close
(Thread.list - [Thread.main]).each(&:join)
File.unlink(place) if place.start_with?("/") && !inherited
