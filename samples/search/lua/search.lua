-- search: the same worker in Lua, on libuv (package lua-luv): a coroutine for each connection.
--
--     lua search.lua PORT    listens on a port of this machine; with /PATH on a Unix socket
--     lua search.lua         finds PORT or SOCKET in its environment, or with LISTEN_FDS=1 a listening socket as
--                            descriptor 3
--     GET /health            200 as soon as it listens
--     GET /anything?q=tcp    {"query": "tcp", "results": ["..."], "pid": 4121, "language": "lua"}
--
-- libuv calls back when a connection has something to read or a signal came. A coroutine makes of these calls code that
-- reads from top to bottom: where it needs more bytes it yields, and the next callback resumes it. One thread does all.
-- After SIGTERM it answers what has arrived and exits with 0.
local uv = require "luv"

local RESULTS, HEAD = 5, 8192
local PID = string.format("%d", uv.os_getpid())
local facts = {}
for line in io.lines((arg[0]:match "^(.*)/" or ".") .. "/../facts.inc") do
  table.insert(facts, line:match '^"(.*)",$')
end

local stopping = false
local idle = {} -- the sockets of clients that have begun no request, as keys

-- A text as JSON writes it. What is no UTF-8 becomes U+FFFD.
local function quote(text)
  local pieces, place = {}, 1
  while place <= #text do
    local _, wrong = utf8.len(text, place)
    table.insert(pieces, text:sub(place, (wrong or #text + 1) - 1))
    table.insert(pieces, wrong and "\u{FFFD}" or nil)
    place = (wrong or #text) + 1
  end
  local escaped = table.concat(pieces):gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end)
  return '"' .. escaped .. '"'
end

-- Every fact that has all words of the first parameter `q`, as the interface promises it.
local function search(target)
  local query = ("&" .. (target:match "%?(.*)" or "")):match "&q=([^&]*)" or ""
  query = query:gsub("%+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  local results = {}
  for _, fact in ipairs(facts) do
    local some, all = false, true
    for word in query:lower():gmatch "%S+" do
      some, all = true, all and fact:lower():find(word, 1, true) ~= nil
    end
    if some and all and #results < RESULTS then table.insert(results, quote(fact)) end
  end
  local form = '{"query": %s, "results": [%s], "pid": %s, "language": "lua"}\n'
  return form:format(quote(query), table.concat(results, ", "), PID)
end

-- Method, target, and whether this is its connection's last request; or nil, and why it is refused: where two servers
-- disagree about the end of a request, an attacker can hide a second one in the first (RFC 9112 section 11.2).
local function parse(head)
  if #head > HEAD then return nil, "431 Request Header Fields Too Large: expected at most " .. HEAD .. " bytes" end
  local method, target, minor, rest = head:match "^(%u+) ([!-~\x80-\xff]+) HTTP/1%.(%d)\r\n(.*)$"
  if not method then return nil, "400 Bad Request: expected a first line like: GET /path HTTP/1.1" end
  if method ~= "GET" and method ~= "HEAD" then return nil, "405 Method Not Allowed: expected GET or HEAD" end
  local close = minor == "0"
  for line in rest:gmatch "(.-)\r\n" do
    local name, value = line:lower():match "^([%w!#$%%&'*+.^_`|~-]+):[ \t]*([^\r\n\0]-)[ \t]*$"
    if not name then return nil, "400 Bad Request: expected fields like Name: value, each ended by CR LF" end
    if name == "transfer-encoding" or name == "content-length" and value ~= "0" then
      return nil, "400 Bad Request: expected no body"
    end
    close = close or name == "connection" and value:find("close", 1, true) ~= nil
  end
  return method, target, close
end

-- A whole response with the JSON document `body`.
local function response(status, body, close, method)
  local head = { "HTTP/1.1 " .. status, os.date "!Date: %a, %d %b %Y %H:%M:%S GMT" }
  table.insert(head, "Content-Type: application/json\r\nContent-Length: " .. #body)
  if status:sub(1, 1) == "4" then table.insert(head, "Allow: GET, HEAD") end
  if close then table.insert(head, "Connection: close") end
  return table.concat(head, "\r\n") .. "\r\n\r\n" .. (method == "HEAD" and "" or body)
end

-- Do something that calls back once, and wait for that: gives back what the callback was given.
local function await(begin)
  local this = coroutine.running()
  begin(function(...) assert(coroutine.resume(this, ...)) end)
  return coroutine.yield()
end

-- What comes next on a socket; nil at the end of the stream. Who does not read his answers is not read either.
local function read(socket)
  local _, data = await(function(done) socket:read_start(done) end)
  socket:read_stop()
  return data
end

-- The next head without its empty line, and what came behind it; nil at the end of the stream.
local function read_head(socket, received)
  while true do
    local first, last = received:find("\r\n\r\n", 1, true)
    if first or #received > HEAD then return received:sub(1, (first or HEAD) + 1), received:sub((last or HEAD) + 1) end
    idle[socket] = received == "" or nil
    local data = read(socket)
    idle[socket] = nil
    if not data then return nil end
    received = received .. data
  end
end

-- The answer to a head, and whether it is the last.
local function answer(head)
  local method, target, close = parse(head)
  if not method then
    local status, wrong = target:match "^(.-): (.*)$"
    return response(status, '{"error": "' .. wrong .. '"}\n', true), true
  end
  close = close or stopping
  local body = target == "/health" and '{"status": "ok", "pid": ' .. PID .. "}\n" or search(target)
  return response("200 OK", body, close, method), close
end

-- One connection, from the first request to the last.
local function serve(socket)
  local received, head, out, failed, last = "", nil, nil, nil, nil
  repeat
    head, received = read_head(socket, received)
    if head then
      out, last = answer(head)
      failed = await(function(done) socket:write(out, done) end) -- until the kernel has taken all of it
    end
  until not head or failed or last
  -- Not close yet: unread input would destroy the answer on its way.
  failed = await(function(done) socket:shutdown(done) end)
  idle[socket] = true
  while not (failed or stopping) and read(socket) do
  end
  idle[socket] = nil
  socket:close()
end

local function give_up(why, status)
  io.stderr:write("search: ", why, "\n")
  os.exit(status)
end

-- A socket bound to a path or a port, and what makes the sockets of its clients.
local function bind(place)
  if place:sub(1, 1) == "/" then
    local pipe = uv.new_pipe(false)
    assert(pipe:bind(place))
    return pipe, function() return uv.new_pipe(false) end
  end
  local port = place:match "^%d%d?%d?%d?%d?$" and tonumber(place) or 0
  if port < 1 or port > 65535 then
    give_up(("found port '%s', expected 1 to 65535; usage: search.lua PORT"):format(place), 2)
  end
  local tcp = uv.new_tcp()
  assert(tcp:bind("127.0.0.1", port))
  return tcp, uv.new_tcp
end

local place = arg[1] or os.getenv "SOCKET" or os.getenv "PORT" or ""
local inherited = not arg[1] and os.getenv "LISTEN_PID" == PID -- sd_listen_fds(3)
local server, new_client = uv.new_tcp(), uv.new_tcp
if inherited then
  assert(server:open(3))
else
  server, new_client = bind(place)
end

-- Listen no more; each answer from now on says `Connection: close`. The others are let go after one more look at who
-- has sent something. When the last connection has ended, nothing is left to wait for, and the loop ends.
local function stop()
  if stopping then return end
  stopping = true
  server:close()
  uv.new_timer():start(10, 0, function()
    for socket in pairs(idle) do socket:close() end
  end)
end

for _, name in ipairs { "sigterm", "sigint" } do -- before it listens: whoever gets through can also end it in order
  local signal = uv.new_signal()
  signal:start(name, stop)
  signal:unref() -- that it waits for a signal is no reason to go on
end

local listens, why = server:listen(511, function()
  local client = new_client()
  if not server:accept(client) then return client:close() end -- of a shared socket, another worker was quicker
  coroutine.wrap(serve)(client)
end)
if not listens then
  give_up("cannot listen: " .. (why:find "EADDRINUSE" and "Address already in use" or why), 1)
end
io.stderr:write(("search: pid %s listens at %s\n"):format(PID, inherited and "descriptor 3" or place))
uv.run()
