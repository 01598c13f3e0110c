package placement_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/control/controltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(controltest.OnEachDatabase(m)) }

// rig adds to controltest's what these tests share.
type rig struct{ *controltest.Rig }

const self = controltest.Self

var wantCode = controltest.WantCode
