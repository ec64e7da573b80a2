#include "fake_nixl.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

namespace {

constexpr int kSuccess = 0;
constexpr int kInProgress = 1;
constexpr int kInvalidParameter = -1;
constexpr int kBackend = -2;
constexpr int kNotFound = -6;

struct Place {
  int type = 0;
  std::uint64_t device = 0;
  std::uintptr_t address = 0;
  std::size_t size = 0;

  bool covers(const Place& other) const {
    return type == other.type && device == other.device && address <= other.address &&
           other.address + other.size <= address + size;
  }
  friend auto operator<=>(const Place&, const Place&) = default;
};

/// A remote agent as another has loaded it.
struct Remote {
  std::string address;
  std::map<Place, std::string> keys;
};

struct Pending {
  std::vector<Place> from;
  std::vector<Place> to;
  std::string initiator;
  std::string target;
};

struct Fault {
  int status = 0;
  int times = 0;
  int after = 0;
};

}  // namespace

struct Agent {
  std::string name;
  std::string address;
  std::thread::id maker;
  std::multimap<Place, std::string> registered;
  std::map<std::string, Remote> remotes;
  /// Names whose connection the backend keeps though the agent has erased them.
  std::set<std::string> burnt;
  std::deque<std::pair<std::string, std::string>> inbox;
  bool dead = false;
  bool stopped = false;
};

struct Params {};
struct MemList {};
struct BackendState {};
struct OptArgs {
  bool has_notification = false;
  std::string notification;
};
struct List {
  int type = 0;
  std::vector<Place> places;
};
struct NotifMap {
  std::map<std::string, std::vector<std::string>> messages;
};

struct Request {
  Agent* agent = nullptr;
  bool write = false;
  std::vector<Place> local;
  std::vector<Place> remote;
  std::vector<std::string> keys;
  std::string peer;
  std::string address;
  std::string notification;
  bool has_notification = false;
  int polls = 0;
  int status = kInProgress;
  bool posted = false;
};

namespace {

/// Everything there is. Never destroyed: an engine may outlive static objects.
struct World {
  std::recursive_mutex mutex;
  std::map<Agent*, std::unique_ptr<Agent>> agents;
  std::set<Request*> requests;
  std::vector<Pending> late;
  std::map<std::string, Fault> faults;
  std::map<std::string, int> delays;
  int polls = 1;
  bool hold = false;
  bool late_writes = false;
  int drop = 0;
  int drop_after = 0;
  bool reverse = false;
  bool repeat = false;
  bool rotate = false;
  std::function<void(const std::string&)> watcher;
  std::uint64_t next_key = 0;
  std::size_t key_padding = 0;
  std::uint64_t next_address = 0;
  std::uint64_t register_calls = 0;
  std::uint64_t notifications_sent = 0;
  std::uint64_t wrong_thread_calls = 0;
};

World& world() {
  static World& the_world = *new World;
  return the_world;
}

/// What each call begins with: its delay, its lock and its fault.
class Call {
 public:
  explicit Call(const char* function, const Agent* agent = nullptr) {
    int microseconds = 0;
    {
      const std::lock_guard guard(world().mutex);
      if (const auto it = world().delays.find(function); it != world().delays.end()) {
        microseconds = it->second;
      }
    }
    if (microseconds > 0) std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
    lock_ = std::unique_lock(world().mutex);
    if (world().watcher) world().watcher(function);
    if (agent != nullptr && agent->maker != std::this_thread::get_id()) {
      ++world().wrong_thread_calls;
    }
    const auto it = world().faults.find(function);
    if (it == world().faults.end() || it->second.times == 0) return;
    if (it->second.after > 0) {
      --it->second.after;
    } else {
      --it->second.times;
      fault_ = it->second.status;
    }
  }

  std::optional<int> fault() const { return fault_; }

 private:
  std::unique_lock<std::recursive_mutex> lock_;
  std::optional<int> fault_;
};

Agent* agent_at(const std::string& address) {
  for (auto& [agent, owner] : world().agents) {
    if (agent->address == address) return agent;
  }
  return nullptr;
}

void deliver(const std::string& address, const std::string& sender, const std::string& message) {
  ++world().notifications_sent;
  if (world().drop_after > 0) {
    --world().drop_after;
  } else if (world().drop > 0) {
    --world().drop;
    return;
  }
  Agent* agent = agent_at(address);
  if (agent == nullptr || agent->dead) return;
  for (int i = 0; i < (world().repeat ? 2 : 1); ++i) agent->inbox.emplace_back(sender, message);
}

void copy(const Pending& pending) {
  for (std::size_t i = 0; i < pending.from.size(); ++i) {
    std::memcpy(reinterpret_cast<void*>(pending.to[i].address),
                reinterpret_cast<const void*>(pending.from[i].address), pending.from[i].size);
  }
}

Pending bytes_of(const Request& request) {
  const std::string& initiator = request.agent->address;
  return request.write ? Pending{request.local, request.remote, initiator, request.address}
                       : Pending{request.remote, request.local, initiator, request.address};
}

/// Whether the keys that the request was made with are still good at its target. As NIXL 1.5.1's
/// UCX backend, which finds memory by key and address, it makes nothing of a remote device number.
bool keys_hold(const Request& request, const Agent& target) {
  for (std::size_t i = 0; i < request.remote.size(); ++i) {
    bool found = false;
    for (const auto& [place, key] : target.registered) {
      Place there = request.remote[i];
      there.device = place.device;
      found = found || (key == request.keys[i] && place.covers(there));
    }
    if (!found) return false;
  }
  return true;
}

int advance(Request& request) {
  if (request.status != kInProgress) return request.status;
  if (request.peer != request.agent->name) {
    const auto it = request.agent->remotes.find(request.peer);
    if (it == request.agent->remotes.end()) return request.status = kNotFound;
  }
  Agent* target = agent_at(request.address);
  if (target == nullptr || target->dead) {
    // As NIXL does on a disconnection: the peer is erased, and disconnected.
    request.agent->remotes.erase(request.peer);
    return request.status = kBackend;
  }
  if (world().hold || target->stopped || ++request.polls < world().polls) return kInProgress;
  if (!keys_hold(request, *target)) return request.status = kBackend;
  copy(bytes_of(request));
  if (request.has_notification) deliver(request.address, request.agent->name, request.notification);
  return request.status = kSuccess;
}

// NIXL's serialised form.

void put(std::string& out, const std::string& tag, const std::string& value) {
  const std::uint64_t size = value.size();
  out += tag;
  out.append(reinterpret_cast<const char*>(&size), sizeof size);
  out += value;
  out += '|';
}

template <typename Integer>
std::string raw(Integer value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string get(const std::string& in, std::size_t& at, const std::string& tag) {
  std::uint64_t size = 0;
  if (in.compare(at, tag.size(), tag) != 0) std::abort();
  std::memcpy(&size, in.data() + at + tag.size(), sizeof size);
  at += tag.size() + sizeof size;
  std::string value = in.substr(at, size);
  at += size + 1;
  return value;
}

std::uint64_t number(const std::string& value) {
  std::uint64_t result = 0;
  std::memcpy(&result, value.data(), std::min(value.size(), sizeof result));
  return result;
}

std::string serialise(const Agent& agent, bool connections,
                      const std::map<Place, std::string>& places) {
  std::string out = "nixlSerDes|";
  put(out, "Agent", agent.name);
  put(out, "Conns", raw(std::uint64_t{connections ? 1u : 0u}));
  if (connections) {
    put(out, "t", "UCX");
    put(out, "c", agent.address);
  }
  put(out, "", "MemSection");
  std::map<int, std::vector<std::pair<Place, std::string>>> sections;
  for (const auto& entry : places) sections[entry.first.type].push_back(entry);
  put(out, "nixlSecElms", raw(std::uint64_t{sections.size()}));
  for (const auto& [type, elements] : sections) {
    put(out, "bknd", "UCX");
    put(out, "nixlDList", "nixlSDList");
    put(out, "t", raw(std::int32_t{type}));
    put(out, "n", raw(std::uint64_t{elements.size()}));
    for (const auto& [place, key] : elements) {
      put(out, "",
          raw(std::uint64_t{place.address}) + raw(std::uint64_t{place.size}) + raw(place.device) +
              key);
    }
  }
  return out;
}

int hand_out(const std::string& bytes, void** data, std::size_t* size) {
  *data = std::malloc(bytes.size());
  std::memcpy(*data, bytes.data(), bytes.size());
  *size = bytes.size();
  return kSuccess;
}

/// The first that covers, as NIXL's search might: not the one that fits best.
template <typename Table>
const std::string* covering_key(const Table& table, const Place& wanted) {
  for (const auto& [place, key] : table) {
    if (place.covers(wanted)) return &key;
  }
  return nullptr;
}

bool starts_with(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

}  // namespace

#define FAKE_CALL(name, agent)  \
  const Call call(name, agent); \
  if (const auto fault = call.fault()) return *fault

extern "C" {

int nixl_capi_create_configured_agent(const char* name, const void*, Agent** out) {
  FAKE_CALL("create_configured_agent", nullptr);
  auto agent = std::make_unique<Agent>();
  agent->name = name;
  agent->address = "fake-" + std::to_string(++world().next_address);
  agent->maker = std::this_thread::get_id();
  *out = agent.get();
  world().agents.emplace(*out, std::move(agent));
  return kSuccess;
}

int nixl_capi_destroy_agent(Agent* agent) {
  FAKE_CALL("destroy_agent", agent);
  world().agents.erase(agent);
  return kSuccess;
}

int nixl_capi_get_plugin_params(Agent*, const char* name, MemList** memories, Params** params) {
  FAKE_CALL("get_plugin_params", nullptr);
  if (std::string(name) != "UCX") return kNotFound;
  *memories = new MemList;
  *params = new Params;
  return kSuccess;
}

int nixl_capi_destroy_mem_list(MemList* list) {
  delete list;
  return kSuccess;
}

int nixl_capi_destroy_params(Params* params) {
  delete params;
  return kSuccess;
}

int nixl_capi_params_add(Params*, const char*, const char*) { return kSuccess; }

int nixl_capi_create_backend(Agent* agent, const char*, Params*, BackendState** out) {
  FAKE_CALL("create_backend", agent);
  *out = new BackendState;
  return kSuccess;
}

int nixl_capi_destroy_backend(BackendState* backend) {
  delete backend;
  return kSuccess;
}

int nixl_capi_get_local_md(Agent* agent, void** data, std::size_t* size) {
  FAKE_CALL("get_local_md", agent);
  return hand_out(serialise(*agent, true, {agent->registered.begin(), agent->registered.end()}),
                  data, size);
}

int nixl_capi_get_local_partial_md(Agent* agent, List* list, void** data, std::size_t* size,
                                   OptArgs*) {
  FAKE_CALL("get_local_partial_md", agent);
  std::map<Place, std::string> places;
  for (const Place& place : list->places) {
    const auto it = agent->registered.find(place);
    if (it == agent->registered.end()) return kNotFound;
    places.insert(*it);
  }
  return hand_out(serialise(*agent, places.empty(), places), data, size);
}

int nixl_capi_load_remote_md(Agent* agent, const void* data, std::size_t size, char** out) {
  FAKE_CALL("load_remote_md", agent);
  const std::string in(static_cast<const char*>(data), size);
  std::size_t at = std::strlen("nixlSerDes|");
  const std::string name = get(in, at, "Agent");
  if (name == agent->name) return kInvalidParameter;
  const std::uint64_t connections = number(get(in, at, "Conns"));
  std::string address;
  for (std::uint64_t i = 0; i < connections; ++i) {
    get(in, at, "t");
    address = get(in, at, "c");
  }
  auto it = agent->remotes.find(name);
  if (it == agent->remotes.end()) {
    if (agent->burnt.contains(name)) return kInvalidParameter;
    it = agent->remotes.emplace(name, Remote{address, {}}).first;
  } else if (connections > 0 && it->second.address != address) {
    return kBackend;
  }
  Remote& remote = it->second;
  get(in, at, "");
  const std::uint64_t sections = number(get(in, at, "nixlSecElms"));
  for (std::uint64_t s = 0; s < sections; ++s) {
    get(in, at, "bknd");
    get(in, at, "nixlDList");
    const int type = static_cast<int>(number(get(in, at, "t")));
    const std::uint64_t elements = number(get(in, at, "n"));
    for (std::uint64_t e = 0; e < elements; ++e) {
      const std::string element = get(in, at, "");
      const Place place{type, number(element.substr(16, 8)), number(element.substr(0, 8)),
                        number(element.substr(8, 8))};
      const std::string key = element.substr(24);
      const auto [known, inserted] = remote.keys.emplace(place, key);
      if (!inserted && known->second != key) {
        agent->remotes.erase(it);
        agent->burnt.insert(name);
        return kBackend;
      }
    }
  }
  *out = ::strdup(name.c_str());
  return kSuccess;
}

int nixl_capi_invalidate_remote_md(Agent* agent, const char* name) {
  FAKE_CALL("invalidate_remote_md", agent);
  return agent->remotes.erase(name) > 0 ? kSuccess : kNotFound;
}

int nixl_capi_create_opt_args(OptArgs** out) {
  *out = new OptArgs;
  return kSuccess;
}

int nixl_capi_destroy_opt_args(OptArgs* args) {
  delete args;
  return kSuccess;
}

int nixl_capi_opt_args_set_has_notif(OptArgs* args, bool has) {
  args->has_notification = has;
  return kSuccess;
}

int nixl_capi_opt_args_set_notif_msg(OptArgs* args, const void* data, std::size_t size) {
  args->notification.assign(static_cast<const char*>(data), size);
  return kSuccess;
}

int nixl_capi_create_reg_dlist(int type, List** out) {
  *out = new List{type, {}};
  return kSuccess;
}

int nixl_capi_reg_dlist_clear(List* list) {
  list->places.clear();
  return kSuccess;
}

int nixl_capi_destroy_reg_dlist(List* list) {
  delete list;
  return kSuccess;
}

int nixl_capi_reg_dlist_add_desc(List* list, std::uintptr_t address, std::size_t size,
                                 std::uint64_t device, const void*, std::size_t) {
  list->places.push_back({list->type, device, address, size});
  return kSuccess;
}

int nixl_capi_register_mem(Agent* agent, List* list, OptArgs*) {
  FAKE_CALL("register_mem", agent);
  ++world().register_calls;
  for (const Place& place : list->places) {
    const std::uint64_t key = world().rotate ? ++world().next_key : 0;
    agent->registered.emplace(place, "key" + raw(key) + std::string(world().key_padding, '.'));
  }
  return kSuccess;
}

int nixl_capi_deregister_mem(Agent* agent, List* list, OptArgs*) {
  FAKE_CALL("deregister_mem", agent);
  int status = kSuccess;
  for (const Place& place : list->places) {
    const auto it = agent->registered.find(place);
    if (it == agent->registered.end()) {
      status = kNotFound;
    } else {
      agent->registered.erase(it);
    }
  }
  return status;
}

int nixl_capi_create_xfer_dlist(int type, List** out) {
  *out = new List{type, {}};
  return kSuccess;
}

int nixl_capi_xfer_dlist_clear(List* list) {
  list->places.clear();
  return kSuccess;
}

int nixl_capi_destroy_xfer_dlist(List* list) {
  delete list;
  return kSuccess;
}

int nixl_capi_xfer_dlist_add_desc(List* list, std::uintptr_t address, std::size_t size,
                                  std::uint64_t device) {
  list->places.push_back({list->type, device, address, size});
  return kSuccess;
}

int nixl_capi_create_xfer_req(Agent* agent, int operation, List* local, List* remote,
                              const char* peer, Request** out, OptArgs* args) {
  FAKE_CALL("create_xfer_req", agent);
  auto request = std::make_unique<Request>();
  request->agent = agent;
  request->write = operation == 1;
  request->local = local->places;
  request->remote = remote->places;
  request->peer = peer;
  for (const Place& place : local->places) {
    if (covering_key(agent->registered, place) == nullptr) return kNotFound;
  }
  const auto it = agent->remotes.find(peer);
  const bool self = agent->name == peer;
  if (!self && it == agent->remotes.end()) return kNotFound;
  for (const Place& place : remote->places) {
    const std::string* key =
        self ? covering_key(agent->registered, place) : covering_key(it->second.keys, place);
    if (key == nullptr) return kNotFound;
    request->keys.push_back(*key);
  }
  request->address = self ? agent->address : it->second.address;
  if (args != nullptr) {
    request->has_notification = args->has_notification;
    request->notification = args->notification;
  }
  world().requests.insert(request.get());
  *out = request.release();
  return kSuccess;
}

int nixl_capi_post_xfer_req(Agent* agent, Request* request, OptArgs*) {
  FAKE_CALL("post_xfer_req", agent);
  request->posted = true;
  const Agent* target = agent_at(request->address);
  if (target == nullptr || target->dead) {
    agent->remotes.erase(request->peer);
    return request->status = kBackend;
  }
  return world().polls == 0 ? advance(*request) : kInProgress;
}

int nixl_capi_get_xfer_status(Agent* agent, Request* request) {
  FAKE_CALL("get_xfer_status", agent);
  return advance(*request);
}

int nixl_capi_release_xfer_req(Agent* agent, Request* request) {
  FAKE_CALL("release_xfer_req", agent);
  if (request->posted && request->status == kInProgress && world().late_writes) {
    world().late.push_back(bytes_of(*request));
  }
  request->status = kBackend;
  return kSuccess;
}

int nixl_capi_destroy_xfer_req(Request* request) {
  const Call call("destroy_xfer_req");
  world().requests.erase(request);
  delete request;
  return kSuccess;
}

int nixl_capi_gen_notif(Agent* agent, const char* peer, const void* data, std::size_t size,
                        OptArgs*) {
  FAKE_CALL("gen_notif", agent);
  const auto it = agent->remotes.find(peer);
  if (it == agent->remotes.end() && agent->name != peer) return kNotFound;
  const std::string address = agent->name == peer ? agent->address : it->second.address;
  if (const Agent* target = agent_at(address); target != nullptr && target->dead) return kBackend;
  deliver(address, agent->name, {static_cast<const char*>(data), size});
  return kSuccess;
}

int nixl_capi_create_notif_map(NotifMap** out) {
  *out = new NotifMap;
  return kSuccess;
}

int nixl_capi_destroy_notif_map(NotifMap* map) {
  delete map;
  return kSuccess;
}

int nixl_capi_get_notifs(Agent* agent, NotifMap* map, OptArgs*) {
  FAKE_CALL("get_notifs", agent);
  for (const Pending& pending : world().late) {
    // With an agent go its endpoints, and what flew over them.
    if (agent_at(pending.initiator) != nullptr && agent_at(pending.target) != nullptr) {
      copy(pending);
    }
  }
  world().late.clear();
  if (agent->stopped) return kSuccess;
  if (world().reverse) std::reverse(agent->inbox.begin(), agent->inbox.end());
  for (auto& [sender, message] : agent->inbox) map->messages[sender].push_back(message);
  agent->inbox.clear();
  return kSuccess;
}

int nixl_capi_notif_map_size(NotifMap* map, std::size_t* size) {
  *size = map->messages.size();
  return kSuccess;
}

int nixl_capi_notif_map_get_agent_at(NotifMap* map, std::size_t index, const char** name) {
  *name = std::next(map->messages.begin(), static_cast<std::ptrdiff_t>(index))->first.c_str();
  return kSuccess;
}

int nixl_capi_notif_map_get_notifs_size(NotifMap* map, const char* name, std::size_t* size) {
  *size = map->messages[name].size();
  return kSuccess;
}

int nixl_capi_notif_map_get_notif(NotifMap* map, const char* name, std::size_t index,
                                  const void** data, std::size_t* size) {
  const std::string& message = map->messages[name][index];
  *data = message.data();
  *size = message.size();
  return kSuccess;
}

int nixl_capi_notif_map_clear(NotifMap* map) {
  map->messages.clear();
  return kSuccess;
}

}  // extern "C"

namespace fake_nixl {

void reset() {
  const std::lock_guard lock(world().mutex);
  World& w = world();
  w.late.clear();
  w.faults.clear();
  w.delays.clear();
  w.polls = 1;
  w.hold = w.late_writes = w.reverse = w.repeat = w.rotate = false;
  w.drop = w.drop_after = 0;
  w.key_padding = 0;
  w.watcher = nullptr;
  w.register_calls = w.notifications_sent = w.wrong_thread_calls = 0;
}

void fail(const std::string& function, int status, int times, int after) {
  const std::lock_guard lock(world().mutex);
  world().faults[function] = {status, times, after};
}

void delay(const std::string& function, int microseconds) {
  const std::lock_guard lock(world().mutex);
  world().delays[function] = microseconds;
}

void end_transfers_after(int polls) {
  const std::lock_guard lock(world().mutex);
  world().polls = polls;
}

void hold_transfers(bool hold) {
  const std::lock_guard lock(world().mutex);
  world().hold = hold;
}

void write_late(bool late) {
  const std::lock_guard lock(world().mutex);
  world().late_writes = late;
}

void watch(std::function<void(const std::string&)> watcher) {
  const std::lock_guard lock(world().mutex);
  world().watcher = std::move(watcher);
}

void drop_notifications(int count, int after) {
  const std::lock_guard lock(world().mutex);
  world().drop = count;
  world().drop_after = after;
}

void reverse_notifications(bool reverse) {
  const std::lock_guard lock(world().mutex);
  world().reverse = reverse;
}

void repeat_notifications(bool repeat) {
  const std::lock_guard lock(world().mutex);
  world().repeat = repeat;
}

void inject_notification(const std::string& agent_prefix, const std::string& message) {
  const std::lock_guard lock(world().mutex);
  for (auto& [agent, owner] : world().agents) {
    if (starts_with(agent->name, agent_prefix)) agent->inbox.emplace_back("stranger", message);
  }
}

void rotate_keys(bool rotate) {
  const std::lock_guard lock(world().mutex);
  world().rotate = rotate;
}

void pad_keys(std::size_t bytes) {
  const std::lock_guard lock(world().mutex);
  world().key_padding = bytes;
}

void kill(const std::string& agent_prefix) {
  const std::lock_guard lock(world().mutex);
  for (auto& [agent, owner] : world().agents) {
    if (starts_with(agent->name, agent_prefix)) agent->dead = true;
  }
}

void stop(const std::string& agent_prefix, bool stopped) {
  const std::lock_guard lock(world().mutex);
  for (auto& [agent, owner] : world().agents) {
    if (starts_with(agent->name, agent_prefix)) agent->stopped = stopped;
  }
}

Counts counts() {
  const std::lock_guard lock(world().mutex);
  Counts result;
  result.agents = world().agents.size();
  result.requests = world().requests.size();
  result.register_calls = world().register_calls;
  result.notifications_sent = world().notifications_sent;
  result.wrong_thread_calls = world().wrong_thread_calls;
  for (const auto& [agent, owner] : world().agents) {
    result.registered += agent->registered.size();
    result.loaded_peers += agent->remotes.size();
    for (const auto& [name, remote] : agent->remotes) result.loaded_regions += remote.keys.size();
    result.notifications += agent->inbox.size();
  }
  return result;
}

}  // namespace fake_nixl

void fake_nixl_fail(const char* function, int status) { fake_nixl::fail(function, status); }
