package netcfg

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	cardWait = 5 * time.Second // for the network card, whose driver is loaded already
	cardPoll = 5 * time.Millisecond
)

// WaitCard waits for the machine's virtio-net card, at most for cardWait, and gives its name: eth0,
// with net.ifnames=0. Of several the first one counts.
func WaitCard(ctx context.Context) (string, error) { return waitCard(ctx, "/sys/class/net", cardWait) }

func waitCard(ctx context.Context, sysNet string, deadline time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	tick := time.NewTicker(cardPoll)
	defer tick.Stop()
	for {
		card, others := scanCards(sysNet)
		if card != "" {
			return card, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("no virtio-net card (there is: %s)", strings.Join(others, ", "))
		}
	}
}

// scanCards looks for an interface of the driver virtio_net, and lists the others for an error's
// sake.
func scanCards(sysNet string) (card string, others []string) {
	paths, _ := filepath.Glob(filepath.Join(sysNet, "*"))
	for _, path := range paths {
		driver, err := os.Readlink(filepath.Join(path, "device/driver"))
		if err == nil && filepath.Base(driver) == "virtio_net" {
			return filepath.Base(path), nil
		}
		others = append(others, filepath.Base(path))
	}
	return "", others
}
