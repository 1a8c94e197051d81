// Entry point of every single-process test.
#define BOOST_TEST_MODULE neuronmoe_unit
#include <boost/test/unit_test.hpp>
