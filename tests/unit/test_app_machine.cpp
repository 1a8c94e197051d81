// What `check` reads of the kernel, of Lustre and of NCCL's log, on texts as they write them.
#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <cstring>

#include "../../src/app/launcher.hpp"
#include "../../src/app/machine_facts.hpp"
#include "../../src/app/nccl_log.hpp"

using namespace nmoe;

BOOST_AUTO_TEST_CASE(lists_of_cores_are_read_and_written) {
  BOOST_TEST(app::numbers_in("0-2,8") == (std::vector<int>{0, 1, 2, 8}), boost::test_tools::per_element());
  BOOST_TEST(app::numbers_in("5\n") == std::vector<int>{5}, boost::test_tools::per_element());
  for (const char* nothing : {"", "\n", "x", "3-"}) BOOST_TEST(app::numbers_in(nothing).empty(), nothing);
  BOOST_TEST(app::ranges_text({0, 1, 2, 8, 10, 11}) == "0-2,8,10-11");
  BOOST_TEST(app::ranges_text({}) == "");
  BOOST_TEST(app::ranges_text(app::numbers_in("0-71,144-215")) == "0-71,144-215");
  BOOST_TEST(static_cast<int>(app::numbers_in(app::cores_text()).size()) == app::num_cores());
}

BOOST_AUTO_TEST_CASE(nodes_of_cores_are_among_those_of_the_machine) {
  const auto nodes = app::numa_nodes_of_cores();
  BOOST_TEST(static_cast<int>(nodes.size()) <= app::num_numa_nodes());
  BOOST_TEST((app::num_numa_nodes() == 0 || !nodes.empty()));
  BOOST_TEST(app::numa_node_of_device("ffff:ff:1f.7") == -1);
  BOOST_TEST(app::file_system_of("/proc").type.starts_with("file system 0x"));  // none to write to
  BOOST_TEST(app::file_system_of("/nowhere").type == "unknown");
}

BOOST_AUTO_TEST_CASE(stripes_of_lustre_are_read) {
  const auto layout = [](std::uint32_t magic, std::uint32_t size, std::uint16_t count) {
    std::string bytes(56, '\0');
    std::memcpy(bytes.data(), &magic, 4);
    std::memcpy(bytes.data() + 24, &size, 4);
    std::memcpy(bytes.data() + 28, &count, 2);
    return bytes;
  };
  for (const std::uint32_t magic : {0x0BD10BD0U, 0x0BD30BD0U}) {
    const app::Stripe stripe = app::stripe_in(layout(magic, 4U << 20, 8));
    BOOST_TEST(stripe.count == 8);
    BOOST_TEST(stripe.bytes == 4 << 20);
    BOOST_TEST(stripe.parts == 0);
  }
  std::string parts(32, '\0');
  const std::uint32_t magic = 0x0BD60BD0U;
  const std::uint16_t three = 3;
  std::memcpy(parts.data(), &magic, 4);
  std::memcpy(parts.data() + 14, &three, 2);
  BOOST_TEST(app::stripe_in(parts).parts == 3);
  for (const std::string& other : {std::string(), std::string("x"), layout(1, 1, 1)}) {
    BOOST_TEST(app::stripe_in(other).count == 0);
    BOOST_TEST(app::stripe_in(other).parts == 0);
  }
  BOOST_TEST(app::stripe_in(layout(0x0BD10BD0U, 1, 1).substr(0, 10)).count == 0);  // cut short
}

BOOST_AUTO_TEST_CASE(ways_between_gpus_are_found_in_the_log_of_nccl) {
  // Lines of NCCL 2.12 to 2.28, and some that only look like them.
  BOOST_TEST(app::nccl_transports("n1:7:8 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.1<0>\n"
                                  "n1:7:8 [0] NCCL INFO NET/Plugin: No plugin found (libnccl-net.so)\n"
                                  "n1:7:8 [0] NCCL INFO Channel 00/24 :    0   1   2   3\n"
                                  "n1:7:8 [0] NCCL INFO Connected all rings\n") == "");
  BOOST_TEST(app::nccl_transports("n1:7:8 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read\n"
                                  "n1:7:8 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via P2P/CUMEM/read\n") ==
             "P2P/CUMEM");
  BOOST_TEST(
      app::nccl_transports("n1:7:8 [0] NCCL INFO Channel 00 : 0[3000] -> 1[4000] via SHM/direct/direct\n") ==
      "SHM/direct");
  BOOST_TEST(app::nccl_transports(
                 "n:1:2 [0] NCCL INFO Channel 00/0 : 3[3] -> 4[0] [send] via NET/Socket/0\n"
                 "n:1:2 [0] NCCL INFO Channel 00/0 : 7[3] -> 0[0] [receive] via NET/Socket/0\n"
                 "n:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/IPC\n") == "NET/Socket, P2P/IPC");
  BOOST_TEST(app::nccl_transports(
                 "n:1:2 [0] NCCL INFO Channel 00/0 : 3[3] -> 4[0] [send] via NET/AWS "
                 "Libfabric/1(2)/GDRDMA/Shared\n"
                 "n:1:2 [0] NCCL INFO Channel 02/0 : 3[3] -> 4[0] [send] via NET/IB/8/GDRDMA(PCI)\n") ==
             "NET/AWS Libfabric/GDRDMA, NET/IB/GDRDMA");
  BOOST_TEST(
      app::nccl_transports("n:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/direct pointer/read comm "
                           "0x55 nRanks 02\n") == "P2P/direct pointer");
}
