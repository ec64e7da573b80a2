// One side of a transfer, whose other side is with_python.py: a Python program reads what
// `with_python offer` offers, and offers what `with_python read` reads. Both speak the same JSON, a
// line for each operation, here over standard input and output.
#include <iostream>
#include <string>

#include "example.h"

namespace {

int offer_all(nc::Connector& connector) {
  std::vector<nc::Connection> offers;
  for (const Buffer& buffer : filled_buffers()) {
    offers.push_back(connector.create_readable({buffer.descriptor()}));
    std::cout << nc::to_json(offers.back().metadata()) << std::endl;
  }
  for (const nc::Connection& offer : offers) offer.wait();
  return 0;
}

int read_all(nc::Connector& connector) {
  std::vector<Buffer> buffers;
  std::vector<nc::Connection> reads;
  for (std::string line; std::getline(std::cin, line);) {
    const nc::RdmaMetadata metadata = nc::metadata_from_json(line);
    buffers.emplace_back(metadata.descriptors.at(0).size);
    reads.push_back(connector.begin_read(metadata, {buffers.back().descriptor()}));
  }
  for (const nc::Connection& read : reads) read.wait();
  return report(buffers);
}

}  // namespace

int main(int argc, char** argv) {
  stay_on_this_machine();
  const std::string role = argc == 2 ? argv[1] : "";
  try {
    nc::Connector connector({.name = "cpp"});
    if (role == "offer") return offer_all(connector);
    if (role == "read") return read_all(connector);
  } catch (const nc::Error& error) {
    std::cerr << nc::to_string(error.code()) << ": " << error.what() << '\n';
    return 1;
  }
  std::cerr << "usage: with_python offer|read\n";
  return 2;
}
