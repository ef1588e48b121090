package cli

import (
	"context"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"banger/api"
)

// maxConcurrent bounds how many VMs one command works on at a time.
const maxConcurrent = 16

// eachVM does the same to many VMs at once; one that fails does not stop the others. When all have
// ended, the names of those done are printed and then the errors; the command fails when any did.
func (a *app) eachVM(
	cmd *cobra.Command,
	names []string,
	do func(context.Context, *api.Client, string, func(api.Progress)) (api.Machine, error),
) error {
	var mu sync.Mutex // guards done and failures
	done := []api.Machine{}
	var failures []error
	display := a.newDisplay()
	var group sync.WaitGroup
	slots := make(chan struct{}, maxConcurrent)
	for _, name := range names {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			vm, err := do(cmd.Context(), a.client, name, prefixed(display, name, len(names)))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures = append(failures, err)
				return
			}
			done = append(done, vm)
		})
	}
	group.Wait()
	display.close()
	if a.json {
		if err := a.printJSON(done); err != nil {
			return err
		}
	} else {
		for _, vm := range done {
			fmt.Fprintln(a.Stdout, vm.Name)
		}
	}
	if len(failures) == 0 {
		return nil
	}
	for _, err := range failures[:len(failures)-1] {
		a.printError(err)
	}
	return failures[len(failures)-1]
}

// prefixed names the VM in each stage when there are several.
func prefixed(d display, name string, of int) func(api.Progress) {
	if of == 1 {
		return d.show
	}
	return func(p api.Progress) {
		p.Stage = name + ": " + p.Stage
		d.show(p)
	}
}

// listOfVMs prints what each of some VMs has, of all when names is empty: a line for each with the
// VM's name before the cells, or as JSON a list by the name of each VM that has any.
func listOfVMs[T any](
	ctx context.Context,
	a *app,
	names, header []string,
	of func(api.Machine) []T,
	cells func(api.Machine, T) []string,
) error {
	vms, err := a.someVMs(ctx, names)
	if err != nil {
		return err
	}
	byName, rows := map[string][]T{}, [][]string{append([]string{"NAME"}, header...)}
	for _, vm := range vms {
		if len(of(vm)) > 0 {
			byName[vm.Name] = of(vm)
		}
		for _, has := range of(vm) {
			rows = append(rows, append([]string{vm.Name}, cells(vm, has)...))
		}
	}
	return show(a, byName, nil, func(map[string][]T) error { return a.table(rows) })
}

// someVMs returns the VMs of these names, or all when there are none.
func (a *app) someVMs(ctx context.Context, names []string) ([]api.Machine, error) {
	if len(names) == 0 {
		return a.client.Machines(ctx)
	}
	var vms []api.Machine
	for _, name := range names {
		vm, err := a.client.Machine(ctx, name)
		if err != nil {
			return nil, err
		}
		vms = append(vms, vm)
	}
	return vms, nil
}
