package health_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(controltest.OnEachDatabase(m)) }

// rig adds to controltest's what these tests share.
type rig struct{ *controltest.Rig }

func newRig(t *testing.T, change func(*control.Config)) *rig {
	return &rig{controltest.NewRig(t, change)}
}

func newRigOn(t *testing.T, s store.Store, change func(*control.Config)) *rig {
	return &rig{controltest.NewRigOn(t, s, change)}
}

var wantCode = controltest.WantCode
