#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <string>
#include <utility>

#include "module.h"

namespace nixl_connect::python {

namespace {

/// Gives a `Py_buffer` back.
class BufferView {
 public:
  BufferView(nb::handle object, int flags) {
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw nb::python_error();
  }
  BufferView(const BufferView&) = delete;
  BufferView& operator=(const BufferView&) = delete;
  ~BufferView() { PyBuffer_Release(&view_); }

  const Py_buffer& operator*() const { return view_; }

 private:
  Py_buffer view_{};
};

/// Address, bytes, writable of an object with the buffer protocol.
std::tuple<std::uintptr_t, std::size_t, bool> buffer_info(nb::handle object) {
  const BufferView view(object, PyBUF_FULL_RO);
  const Py_buffer& buffer = *view;
  return {reinterpret_cast<std::uintptr_t>(buffer.buf), static_cast<std::size_t>(buffer.len),
          buffer.readonly == 0};
}

/// Whether memory is that of a `bytes` object: no other holds the type's address before it. Asked
/// of memory that others own only, as behind `torch.frombuffer`, which does not tell.
bool is_bytes_object(std::uintptr_t address) {
  // Python's stable interface does not say where an object has them.
  static const auto header = [] {
    const nb::bytes any("x", 1);
    return static_cast<std::uintptr_t>(any.c_str() - reinterpret_cast<const char*>(any.ptr()));
  }();
  constexpr std::uintptr_t kPage = 4096;
  // What is on one page is mapped as one.
  if (address % alignof(void*) != 0 || address % kPage < header) return false;
  auto* object = reinterpret_cast<PyObject*>(address - header);  // NOLINT: a number
  return Py_TYPE(object) == &PyBytes_Type && Py_REFCNT(object) > 0;
}

/// The items of an array in the order of their indices. Strides are in bytes.
nb::bytes copy_in_order(std::uintptr_t address, const std::vector<std::int64_t>& shape,
                        const std::vector<std::int64_t>& strides, std::size_t item) {
  std::size_t size = item;
  for (const std::int64_t length : shape) size *= static_cast<std::size_t>(length);
  nb::bytes copy =
      nb::steal<nb::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
  if (!copy.is_valid()) throw nb::python_error();
  char* out = PyBytes_AsString(copy.ptr());
  char* const end = out + size;
  const char* from = reinterpret_cast<const char*>(address);  // NOLINT: Python has numbers
  std::vector<std::int64_t> index(shape.size(), 0);
  while (out != end) {
    std::memcpy(out, from, item);
    out += item;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      from += strides[axis];
      if (++index[axis] < shape[axis]) break;
      from -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return copy;
}

/// Address, bytes, shape, strides and item in bytes, writable, DLPack device type and device id,
/// and the object that keeps the memory alive, of an object with DLPack.
std::tuple<std::uintptr_t, std::size_t, std::vector<std::int64_t>, std::vector<std::int64_t>,
           std::size_t, bool, int, int, nb::object>
dlpack_info(nb::handle object) {
  bool writable = true;
  nb::ndarray<nb::ro> array;
  // An array that may be written converts to a writable type, one that may not does not.
  if (nb::ndarray<> read_write; nb::try_cast(object, read_write, false)) {
    array = nb::ndarray<nb::ro>(read_write);
  } else {
    writable = false;
    array = nb::cast<nb::ndarray<nb::ro>>(object, false);
  }
  // The exported tensor keeps the memory alive, even where the export made a copy.
  nb::object keeper = nb::capsule(new nb::ndarray<nb::ro>(array), [](void* held) noexcept {
    delete static_cast<nb::ndarray<nb::ro>*>(held);
  });
  std::vector<std::int64_t> shape, strides;
  for (std::size_t axis = 0; axis < array.ndim(); ++axis) {
    shape.push_back(static_cast<std::int64_t>(array.shape(axis)));
    strides.push_back(array.stride(axis) * static_cast<std::int64_t>(array.itemsize()));
  }
  return {reinterpret_cast<std::uintptr_t>(array.data()),
          array.nbytes(),
          std::move(shape),
          std::move(strides),
          array.itemsize(),
          writable,
          array.device_type(),
          array.device_id(),
          keeper};
}

}  // namespace

/// What the memory of Python's objects is.
void init_inspect(nb::module_& m) {
  m.def("buffer_info", &buffer_info, nb::arg("object"),
        "(address, bytes, writable) of an object with the buffer protocol.");
  m.def("is_bytes_object", &is_bytes_object, nb::arg("address"),
        "Whether the memory there is that of a `bytes` object.");
  m.def("copy_in_order", &copy_in_order, nb::arg("address"), nb::arg("shape"), nb::arg("strides"),
        nb::arg("item"), "An array's items in the order of their indices; strides are in bytes.");
  m.def("dlpack_info", &dlpack_info, nb::arg("object"),
        "(address, bytes, shape, strides, item, writable, device type, device id, owner) of an "
        "object with DLPack; strides and item are bytes, the device type is DLPack's number.");
}

}  // namespace nixl_connect::python
