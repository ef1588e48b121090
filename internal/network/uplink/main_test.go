package uplink_test

import (
	"testing"

	"banger/internal/network/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }
