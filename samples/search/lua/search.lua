-- search: the same worker in Lua, on libuv (package lua-luv): a coroutine for each connection.
--
--     lua search.lua PORT, or lua search.lua /PATH   listens on a port of this machine, or on a Unix socket
--     lua search.lua                                 finds PORT or SOCKET in its environment, or with LISTEN_FDS=1 a
--                                                    listening socket as descriptor 3
--     GET /health                                    200 as soon as it listens
--     GET /anything?q=tcp                            {"query": "tcp", "results": ["..."], "pid": 4121, ...}
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
local idle = {} -- the streams that wait for a request, as keys

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

local function refuse(status, wrong) error({ status = status, wrong = wrong }, 0) end

-- Method and target of a head, and whether it is its connection's last. Doubtful framing is refused: where two servers
-- disagree about the end of a request, an attacker can hide a second one in the first (RFC 9112 section 11.2).
local function parse(head)
  local method, target, minor, rest = head:match "^(%u+) ([!-~\x80-\xff]+) HTTP/1%.(%d)\r\n(.*)$"
  if not method then refuse("400 Bad Request", "expected a first line like: GET /path HTTP/1.1") end
  if method ~= "GET" and method ~= "HEAD" then refuse("405 Method Not Allowed", "expected GET or HEAD") end
  local hosts, close = 0, minor == "0"
  for line in rest:gmatch "(.-)\r\n" do
    local name, value = line:match "^([%w!#$%%&'*+.^_`|~-]+):[ \t]*([^\r\n\0]-)[ \t]*$"
    if not name then refuse("400 Bad Request", "expected fields like Name: value, each ended by CR LF") end
    name = name:lower()
    if name == "transfer-encoding" then refuse("411 Length Required", "expected no chunked body") end
    if name == "content-length" and value ~= "0" then refuse("400 Bad Request", "expected no body") end
    if name == "connection" and value:lower():find("close", 1, true) then close = true end
    if name == "host" then hosts = hosts + 1 end
  end
  if minor ~= "0" and hosts ~= 1 then refuse("400 Bad Request", "expected exactly one Host field") end
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

-- One connection, as a coroutine sees it.
local Stream = {}
Stream.__index = Stream

-- Do something that calls back once, and wait for that: gives back what the callback was given.
local function await(begin)
  local this = coroutine.running()
  begin(function(...) assert(coroutine.resume(this, ...)) end)
  return coroutine.yield()
end

-- Wait until at least one more byte has come; false at the end of the stream.
function Stream:more()
  local _, data = await(function(done) self.socket:read_start(done) end)
  self.socket:read_stop() -- who does not read his answers is not read either
  self.buffer = self.buffer .. (data or "")
  return data ~= nil
end

-- Send, and wait until the kernel has taken all of it; false when the client went away.
function Stream:send(data)
  return not await(function(done) self.socket:write(data, done) end)
end

-- The next request's head without its empty line; nil at the end of the stream.
function Stream:head()
  while true do
    local first, last = self.buffer:find("\r\n\r\n", 1, true)
    if (first or #self.buffer) > HEAD then
      refuse("431 Request Header Fields Too Large", "expected a head of at most " .. HEAD .. " bytes")
    elseif first then
      local head = self.buffer:sub(1, first + 1)
      self.buffer = self.buffer:sub(last + 1)
      return head
    end
    idle[self] = self.buffer == "" or nil
    local came = self:more()
    idle[self] = nil
    if not came then return nil end
  end
end

-- Answer one request; false when it was the last.
function Stream:answer()
  local head = self:head()
  if not head then return false end
  local method, target, close = parse(head)
  local healthy = '{"status": "ok", "pid": ' .. PID .. "}\n"
  close = close or stopping
  local body = target == "/health" and healthy or search(target)
  return self:send(response("200 OK", body, close, method)) and not close
end

-- From the first request to the last.
function Stream:serve()
  local fine, again
  repeat
    fine, again = pcall(self.answer, self)
  until not (fine and again)
  if not fine then self:send(response(again.status, '{"error": ' .. quote(again.wrong) .. "}\n", true, "")) end
  -- Not close yet: unread input would destroy the answer on its way.
  local failed = await(function(done) self.socket:shutdown(done) end)
  idle[self] = true
  while not (failed or stopping) and self:more() do
    self.buffer = ""
  end
  idle[self] = nil
  self.socket:close()
end

local function give_up(why, status)
  io.stderr:write("search: ", why, "\n")
  os.exit(status)
end

-- A socket bound to a path or a port, and what makes the sockets of its clients.
local function bind(place)
  local local_path = place:sub(1, 1) == "/"
  local port = place:match "^%d%d?%d?%d?%d?$" and tonumber(place) or 0
  if not local_path and (port < 1 or port > 65535) then
    give_up(("found port '%s', expected 1 to 65535; usage: search.lua PORT"):format(place), 2)
  end
  local create = local_path and function() return uv.new_pipe(false) end or uv.new_tcp
  local socket = create()
  if local_path then assert(socket:bind(place)) else assert(socket:bind("127.0.0.1", port)) end
  return socket, create
end

local place = arg[1] or os.getenv "SOCKET" or os.getenv "PORT" or ""
local inherited = not arg[1] and os.getenv "LISTEN_PID" == PID -- sd_listen_fds(3)
local server, new_client
if inherited then
  server, new_client = uv.new_tcp(), uv.new_tcp
  assert(server:open(3))
else
  server, new_client = bind(place)
end

local listens, why = server:listen(511, function()
  local client = new_client()
  if not server:accept(client) then return client:close() end -- of a shared socket, another worker was quicker
  coroutine.wrap(Stream.serve)(setmetatable({ socket = client, buffer = "" }, Stream))
end)
if not listens then
  give_up("cannot listen: " .. (why:find "EADDRINUSE" and "Address already in use" or why), 1)
end

-- Listen no more; each answer from now on says `Connection: close`. The others are let go after one more look at who
-- has sent something. When the last connection has ended, nothing is left to wait for, and the loop ends.
local function stop()
  if stopping then return end
  stopping = true
  server:close()
  uv.new_timer():start(10, 0, function()
    for stream in pairs(idle) do stream.socket:close() end
  end)
end

for _, name in ipairs { "sigterm", "sigint" } do
  local signal = uv.new_signal()
  signal:start(name, stop)
  signal:unref() -- that it waits for a signal is no reason to go on
end
local where = inherited and "descriptor 3" or place:sub(1, 1) == "/" and place or "127.0.0.1:" .. place
io.stderr:write(("search: pid %s listens at %s\n"):format(PID, where))
uv.run()
