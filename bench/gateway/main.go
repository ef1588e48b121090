// Command gateway is what the benchmark of the network runs in a host of its own: a network
// namespace, in a user namespace where root and ordinary users have the same, whose only neighbour
// is "the internet". It prints what it measured as JSON.
//
// Its own copies play the other parts, chosen by the environment: the two processes of banger's
// network, the internet, and the guests, which are processes with a network namespace.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

const roleVariable = "BANGER_BENCH_ROLE"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	roles := map[string]func(context.Context) error{
		"":         enter,
		"world":    measure,
		"keeper":   keep,
		"holder":   hold,
		"internet": beInternet,
		"guest":    beGuest,
	}
	role := os.Getenv(roleVariable)
	if err := roles[role](ctx); err != nil {
		fmt.Fprintln(os.Stderr, "gateway", role+":", err)
		os.Exit(1)
	}
}

// enter runs this program in the host of its own.
func enter(ctx context.Context) error {
	world := self(ctx, "world", os.Args[1:]...)
	world.Stdout = os.Stdout
	world.SysProcAttr = userNamespace()
	return world.Run()
}

// self returns a command that plays a role, and ends with this process.
func self(ctx context.Context, role string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, "/proc/self/exe", args...)
	command.Env = append(os.Environ(), roleVariable+"="+role)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return command
}

// userNamespace asks for a network namespace in a user namespace, where the caller is root.
func userNamespace() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
}

// counts are how often each thing is measured.
type counts struct{ transfers, queries, attaches int }

// measure is the world: it measures one thing after another.
func measure(ctx context.Context) error {
	var n counts
	flag.IntVar(&n.transfers, "transfers", 5, "transfers each way for each contender")
	flag.IntVar(&n.queries, "queries", 5, "rounds of DNS queries for each contender")
	flag.IntVar(&n.attaches, "attaches", 50, "machines attached")
	flag.Parse()
	w, err := newWorld(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	var all []Samples
	for _, one := range []func(context.Context, counts) ([]Samples, error){w.measureTransfers, w.measureQueries, w.measureAttaches} {
		samples, err := one(ctx, n)
		if err != nil {
			return err
		}
		all = append(all, samples...)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// Samples is what was measured of one contender.
type Samples struct {
	Name   string
	Millis []float64 // how long each took that came to its end
	Broken int       // how many did not: pasta breaks a fast upload now and then, and is measured all the same
}
