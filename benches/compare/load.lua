-- What wrk sends, from the environment:
--   LOAD_READS   a file of paths to GET, one a line
--   LOAD_WRITES  a file of paths to POST a note to
--   LOAD_SHARE   the share of requests that are writes, 0 to 1
--   LOAD_NEW     a prefix: every request POSTs to a tenant never seen before
-- Requests are made once, up front, so that wrk takes as little of the shared cores as it can.

local body = '{"text":"Bring the blue notebook and two pens to the meeting on Thursday."}'
local headers = { ["Content-Type"] = "application/json" }
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

local function load(name, method)
  local made = {}
  local file = os.getenv(name)
  if file then
    for path in io.lines(file) do
      made[#made + 1] = wrk.format(method, path, method == "POST" and headers or nil,
        method == "POST" and body or nil)
    end
  end
  return made
end

local reads, writes, share, fresh
local sent = 0

function init()
  reads, writes = load("LOAD_READS", "GET"), load("LOAD_WRITES", "POST")
  share = tonumber(os.getenv("LOAD_SHARE") or (#writes > 0 and "1" or "0"))
  fresh = os.getenv("LOAD_NEW")
  math.randomseed(number * 7919)
end

function request()
  if fresh then
    sent = sent + 1
    return wrk.format("POST", "/" .. fresh .. "_" .. number .. "_" .. sent, headers, body)
  end
  if share > 0 and math.random() < share then
    return writes[math.random(#writes)]
  end
  return reads[math.random(#reads)]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.3f,"p50_us":%d,"p99_us":%d,"bad_status":%d,"socket_errors":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
