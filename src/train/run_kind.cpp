// What a kind of run trains.
#include "neuronmoe/train/run_kind.hpp"

namespace nmoe::train {

model::TrainableSet trainables_of(RunKind kind) {
  switch (kind) {
    case RunKind::pretrain:
      return model::TrainableSet::all;
    case RunKind::stage1:
      return model::TrainableSet::experts_and_routers;
    case RunKind::stage2:
      return model::TrainableSet::routers;
  }
  return model::TrainableSet::none;
}

}  // namespace nmoe::train
