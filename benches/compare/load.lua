-- What wrk sends, from the environment:
--   LOAD_READS   a file of paths to GET, one a line
--   LOAD_WRITES  a file of paths to POST a note to
--   LOAD_SHARE   the share of requests that are writes, 0 to 1
--   LOAD_POSTS   a file of hosts, paths and bodies to POST, separated by tabs, one a line. Where a body has the id
--                note_0000000000000000, another one stands in each request that is sent
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

local unset = "note_0000000000000000"

-- What comes before the id and after it; all of a request that has none.
local function load_posts()
  local made = {}
  local file = os.getenv("LOAD_POSTS")
  if file then
    for line in io.lines(file) do
      local host, path, json = line:match("^(.-)\t(.-)\t(.*)$")
      local request = wrk.format("POST", path, { ["Content-Type"] = "application/json", ["Host"] = host }, json)
      local first, last = request:find(unset, 1, true)
      made[#made + 1] = first and { request:sub(1, first - 1), request:sub(last + 1) } or { request }
    end
  end
  return made
end

local reads, writes, posts, share, fresh
local sent, began = 0, os.time() % 1000000

function init()
  reads, writes, posts = load("LOAD_READS", "GET"), load("LOAD_WRITES", "POST"), load_posts()
  share = tonumber(os.getenv("LOAD_SHARE") or (#writes > 0 and "1" or "0"))
  fresh = os.getenv("LOAD_NEW")
  math.randomseed(number * 7919)
end

function request()
  if fresh then
    sent = sent + 1
    return wrk.format("POST", "/" .. fresh .. "_" .. number .. "_" .. sent, headers, body)
  end
  if #posts > 0 then
    local post = posts[math.random(#posts)]
    if not post[2] then
      return post[1]
    end
    sent = sent + 1
    -- Of one second there is one run, so an id comes once.
    return post[1] .. string.format("note_%06d%02d%08d", began, number, sent) .. post[2]
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
