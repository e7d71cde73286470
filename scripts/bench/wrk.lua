-- Requests from a file of "KIND BODY" lines, in turn, from a random one on.
-- Writes "STATUS KIND START END" for each response to a file per thread, times in microseconds.

local ffi = require("ffi")
ffi.cdef "typedef struct { long s; long us; } tv; int gettimeofday(tv *, void *);"
local function now()
  local t = ffi.new("tv")
  ffi.C.gettimeofday(t, nil)
  return string.format("%.0f", tonumber(t.s) * 1e6 + tonumber(t.us))
end

local kinds, bodies, n = {}, {}, 0
for line in io.lines(os.getenv("WRK_REQUESTS")) do
  n = n + 1
  kinds[n], bodies[n] = line:match("^(%S+) (.*)$")
end
local out, i

-- wrk runs this file once per thread; `setup` runs in the main one and numbers them.
local threads = 0
setup = function(thread)
  thread:set("number", threads)
  threads = threads + 1
end

init = function()
  out = io.open(os.getenv("WRK_RESPONSES") .. "." .. number, "w")
  math.randomseed(tonumber(os.getenv("WRK_SEED")) + number)
  i = math.random(n)
end

-- The server returns X-Request-Id, so a response shows which request it belongs to.
request = function()
  i = i % n + 1
  local headers = {["Content-Type"] = "application/json", ["X-Request-Id"] = kinds[i] .. "-" .. now()}
  return wrk.format("POST", "/predict", headers, bodies[i])
end

response = function(status, headers)
  local id = headers["x-request-id"] or headers["X-Request-Id"] or "peer-0"
  local kind, start = id:match("^(%a+)-(%d+)$")
  out:write(status, " ", kind, " ", start, " ", now(), "\n")
end

local longest_pause_ms = tonumber(os.getenv("WRK_LONGEST_PAUSE_MS"))
if longest_pause_ms > 0 then
  delay = function() return math.random(0, longest_pause_ms) end
end
