package control_test

import (
	"testing"

	"go.uber.org/goleak"

	"banger/internal/vmtest"
)

func TestMain(m *testing.M) {
	vmtest.Main()
	goleak.VerifyTestMain(m)
}
