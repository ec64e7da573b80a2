#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <string>

#include "module.h"

namespace nixl_connect::python {

namespace {

using Numbers = nb::ndarray<nb::ro, nb::ndim<1>, nb::device::cpu>;

/// A function from index to number, over an array of 64-bit integers.
auto reader(const char* argument, const Numbers& numbers) {
  const auto type = numbers.dtype();
  using Code = nb::dlpack::dtype_code;
  const bool is_signed = type.code == static_cast<std::uint8_t>(Code::Int);
  if (type.bits != 64 || type.lanes != 1 ||
      (!is_signed && type.code != static_cast<std::uint8_t>(Code::UInt))) {
    throw nb::type_error((std::string(argument) +
                          ": expected an array of 64-bit integers (int64 or uint64), got another "
                          "type")
                             .c_str());
  }
  return [argument, is_signed, data = static_cast<const std::uint64_t*>(numbers.data()),
          stride = numbers.stride(0)](std::size_t index) {
    const std::uint64_t value = data[static_cast<std::int64_t>(index) * stride];
    if (value == 0 || (is_signed && static_cast<std::int64_t>(value) < 0)) {
      throw nb::value_error(
          (std::string(argument) + "[" + std::to_string(index) +
           "]: expected a number above 0, got " +
           (is_signed ? std::to_string(static_cast<std::int64_t>(value)) : std::to_string(value)))
              .c_str());
    }
    return value;
  };
}

LocalDescriptorList make_list(const Numbers& addresses, const Numbers& sizes, int kind,
                              std::uint32_t device_id, nb::handle owner) {
  const std::size_t count = addresses.shape(0);
  if (count == 0) throw nb::value_error("addresses: expected at least one, got none");
  // One size stands for all.
  const bool one_size = sizes.shape(0) == 1;
  if (!one_size && sizes.shape(0) != count) {
    throw nb::value_error(("sizes: expected " + std::to_string(count) +
                           ", as many as addresses, or one for all, got " +
                           std::to_string(sizes.shape(0)))
                              .c_str());
  }
  const auto address = reader("addresses", addresses);
  const auto size = reader("sizes", sizes);
  const Device device{static_cast<DeviceKind>(kind), device_id};
  LocalDescriptorList list;
  const auto fill = [&] {
    const UnlockedWhen unlocked(count >= kManyDescriptors);
    list.memory.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      list.memory.push_back({address(i), size(one_size ? 0 : i), device, nullptr});
      list.bytes += list.memory.back().size;
      if (list.memory.back().address + list.memory.back().size < list.memory.back().address) {
        throw nb::value_error(("sizes[" + std::to_string(i) +
                               "]: expected a size within memory, got " +
                               std::to_string(list.memory.back().size))
                                  .c_str());
      }
    }
  };
  fill();
  list.memory.front().owner = own(owner);
  return list;
}

void set_size(LocalDescriptor& d, nb::handle value) {
  const auto index = nb::steal(PyNumber_Index(value.ptr()));
  if (!index.is_valid()) {
    PyErr_Clear();
    throw nb::type_error(
        (std::string("_data_size: expected int, got ") + nb::type_name(value.type()).c_str())
            .c_str());
  }
  const std::size_t size = PyLong_AsSize_t(index.ptr());
  if (PyErr_Occurred() != nullptr) PyErr_Clear();  // below 0, or more than there can be
  if (size == 0 || size > d.capacity) {
    throw nb::value_error(("_data_size: expected 1 to " + std::to_string(d.capacity) +
                           " bytes, as many as the memory has, got " + nb::str(index).c_str())
                              .c_str());
  }
  d.memory.size = size;
}

}  // namespace

bool LocalDescriptor::is_writable() const {
  auto known = writable.load(std::memory_order_relaxed);
  if (!known) {
    known = nixl_connect::is_writable(memory);
    writable.store(known, std::memory_order_relaxed);
  }
  return *known;
}

bool LocalDescriptor::has_stayed() const {
  if (!movable) return true;
  auto* const its_owner = static_cast<PyObject*>(const_cast<void*>(memory.owner.get()));
  Py_buffer view;
  if (its_owner == nullptr || PyObject_CheckBuffer(its_owner) == 0) return false;
  if (PyObject_GetBuffer(its_owner, &view, PyBUF_SIMPLE) != 0) {
    PyErr_Clear();
    return false;
  }
  const bool stayed = reinterpret_cast<std::uintptr_t>(view.buf) == memory.address;
  PyBuffer_Release(&view);
  return stayed;
}

std::vector<Descriptor> local_descriptors(nb::handle value, bool writable) {
  const auto check_writable = [&](bool is_writable, std::size_t index) {
    if (writable && !is_writable) {
      throw nb::value_error(
          ("local_descriptors[" + std::to_string(index) +
           "]: expected writable memory for the data to arrive in, got read-only memory or a "
           "copy (bytes, a read-only array or mapping, or values that are not in order: strided, "
           "Fortran order, lazily conjugated)")
              .c_str());
    }
  };
  if (const LocalDescriptorList* list = nullptr; nb::try_cast(value, list, false) && list) {
    // Pieces of one owner: its first and its last stand for all.
    const auto& memory = list->memory;
    if (writable && !memory.empty()) {
      check_writable(is_writable(memory.front()), 0);
      check_writable(is_writable(memory.back()), memory.size() - 1);
    }
    const UnlockedWhen unlocked(memory.size() >= kManyDescriptors);
    return memory;
  }
  std::vector<Descriptor> result;
  const auto add = [&](nb::handle item, std::size_t index) {
    const LocalDescriptor* descriptor = nullptr;
    if (!nb::try_cast(item, descriptor, false) || descriptor == nullptr) {
      const std::string type = nb::type_name(item.type()).c_str();
      throw nb::type_error(("local_descriptors: expected a Descriptor, a list of Descriptor or a "
                            "DescriptorList, got " +
                            (index == 0 && item.is(value) ? type : "a list with " + type))
                               .c_str());
    }
    if (!descriptor->has_stayed()) item.attr("_check_address")(index);
    check_writable(!writable || descriptor->is_writable(), index);
    const nb::ft_object_guard guard(item);
    result.push_back(descriptor->memory);
  };

  if (!PyList_Check(value.ptr())) {
    add(value, 0);
    return result;
  }
  const nb::list list = nb::borrow<nb::list>(value);
  result.reserve(list.size());
  for_each_item(list, add);
  return result;
}

bool are_as_offered(nb::handle value, const std::vector<RemoteDescriptor>& offered) {
  // What cannot change.
  if (nb::isinstance<LocalDescriptorList>(value)) return true;
  std::size_t same = 0;
  const auto compare = [&](nb::handle item) {
    const LocalDescriptor* piece = nullptr;
    if (same == offered.size() || !nb::try_cast(item, piece, false) || piece == nullptr)
      return false;
    const nb::ft_object_guard guard(item);
    const RemoteDescriptor& as = offered[same++];
    return piece->memory.address == as.address && piece->memory.size == as.size;
  };
  if (!PyList_Check(value.ptr())) return compare(value) && same == offered.size();
  for (nb::handle item : nb::borrow<nb::list>(value)) {
    if (!compare(item)) return false;
  }
  return same == offered.size();
}

namespace {

/// The owner as Python's collector sees it: as part of the descriptor while nobody else, no
/// operation that uses it, holds it. So a tensor that refers to its own descriptor can go.
int traverse_descriptor(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  const auto& owner = nb::inst_ptr<LocalDescriptor>(self)->memory.owner;
  if (owner.use_count() == 1) {
    auto* object = static_cast<PyObject*>(const_cast<void*>(owner.get()));
    Py_VISIT(object);
  }
  return 0;
}

int clear_descriptor(PyObject* self) {
  if (nb::inst_ready(self)) nb::inst_ptr<LocalDescriptor>(self)->memory.owner.reset();
  return 0;
}

int traverse_list(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  const auto& memory = nb::inst_ptr<LocalDescriptorList>(self)->memory;
  if (!memory.empty() && memory[0].owner.use_count() == 1) {
    auto* object = static_cast<PyObject*>(const_cast<void*>(memory[0].owner.get()));
    Py_VISIT(object);
  }
  return 0;
}

int clear_list(PyObject* self) {
  if (nb::inst_ready(self)) nb::inst_ptr<LocalDescriptorList>(self)->memory.clear();
  return 0;
}

PyType_Slot list_slots[] = {
    {Py_tp_traverse, reinterpret_cast<void*>(&traverse_list)},
    {Py_tp_clear, reinterpret_cast<void*>(&clear_list)},
    {0, nullptr},
};

PyType_Slot descriptor_slots[] = {
    {Py_tp_traverse, reinterpret_cast<void*>(&traverse_descriptor)},
    {Py_tp_clear, reinterpret_cast<void*>(&clear_descriptor)},
    {0, nullptr},
};

}  // namespace

void init_descriptor(nb::module_& m) {
  nb::class_<LocalDescriptor>(m, "Descriptor", nb::type_slots(descriptor_slots),
                              "One contiguous piece of memory.")
      .def(
          "__init__",
          [](LocalDescriptor* self, std::uintptr_t address, std::size_t size, int kind,
             std::uint32_t device_id, nb::object owner, std::optional<bool> writable,
             bool movable) {
            new (self) LocalDescriptor{
                {address, size, {static_cast<DeviceKind>(kind), device_id}, own(owner)},
                writable,
                movable};
          },
          nb::arg("address"), nb::arg("size"), nb::arg("kind"), nb::arg("device_id"),
          nb::arg("owner").none(), nb::arg("writable").none(), nb::arg("movable"))
      .def_prop_ro("_has_stayed", &LocalDescriptor::has_stayed,
                   "Whether its owner is known to have it where it was.")
      .def_prop_ro(
          "ptr", [](const LocalDescriptor& d) { return d.memory.address; },
          "Address of the first byte.")
      .def_prop_rw(
          "_data_size", [](const LocalDescriptor& d) { return d.memory.size; }, &set_size,
          nb::for_setter(nb::arg("value").none()), nb::lock_self(),
          "Size in bytes. May be made smaller, and again as large as the memory; operations begun "
          "afterwards follow.")
      .def_prop_ro(
          "writable", &LocalDescriptor::is_writable,
          "Whether a transfer may write to the memory. Of memory that does not say, as behind an "
          "address, the system is asked when this is read, or needed, for the first time.");

  nb::class_<LocalDescriptorList>(m, "DescriptorList", nb::type_slots(list_slots),
                                  "Many pieces of memory of one owner.")
      .def(
          "__init__",
          [](LocalDescriptorList* self, const Numbers& addresses, const Numbers& sizes, int kind,
             std::uint32_t device_id, nb::object owner) {
            new (self) LocalDescriptorList(make_list(addresses, sizes, kind, device_id, owner));
          },
          nb::arg("addresses"), nb::arg("sizes"), nb::arg("kind"), nb::arg("device_id"),
          nb::arg("owner").none(),
          nb::sig("def __init__(self, addresses: object, sizes: object, kind: int, "
                  "device_id: int, owner: object | None) -> None"))
      .def("__len__", [](const LocalDescriptorList& list) { return list.memory.size(); })
      .def_ro("_total_bytes", &LocalDescriptorList::bytes, "Bytes of all of them.")
      .def(
          "region",
          [](const LocalDescriptorList& list, std::size_t index) {
            const Descriptor& d = list.memory.at(index);
            return std::tuple(d.address, d.size);
          },
          nb::arg("index"), "(address, size) of one of them.");

  m.def(
      "on_device",
      [](nb::handle value) {
        const auto here = [](const Descriptor& d) { return d.device.kind != DeviceKind::host; };
        if (const LocalDescriptor* one = nullptr; nb::try_cast(value, one, false) && one) {
          return here(one->memory);
        }
        if (const LocalDescriptorList* list = nullptr; nb::try_cast(value, list, false) && list) {
          return !list->memory.empty() && here(list->memory.front());
        }
        if (!PyList_Check(value.ptr())) return false;
        for (nb::handle item : nb::borrow<nb::list>(value)) {
          const LocalDescriptor* one = nullptr;
          if (nb::try_cast(item, one, false) && one != nullptr && here(one->memory)) return true;
        }
        return false;
      },
      nb::arg("local_descriptors").none(),
      "Whether any of the descriptors is of memory that is not the host's.");
  m.def(
      "check_memory",
      [](nb::handle value, const std::string& argument) {
        if (const LocalDescriptorList* list = nullptr; nb::try_cast(value, list, false) && list) {
          check_cuda_memory(list->memory, argument);
        } else {
          check_cuda_memory(local_descriptors(value, false), argument);
        }
      },
      nb::arg("descriptors"), nb::arg("argument"),
      "Raises ValueError when the CUDA driver knows the memory to be elsewhere.");
  m.def("cuda_device_of", &cuda_device_of, nb::arg("address"),
        "The device that has memory there, as the CUDA driver knows.");
  m.def(
      "parse_device",
      [](const std::string& text) {
        const Device device = Device::parse(text);
        return std::tuple(static_cast<int>(device.kind), device.id);
      },
      nb::arg("text"), "(kind, id) of 'cpu', 'cuda:N' or 'xpu:N'.");
}

}  // namespace nixl_connect::python
