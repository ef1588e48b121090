package cli

import (
	"context"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"banger/api"
)

// atOnce bounds how many VMs one command works on at a time.
const atOnce = 16

// eachVM does the same to many VMs at once; one that fails does not stop the others. Names are printed as they are
// done, errors too; the command fails when any did.
func (a *app) eachVM(cmd *cobra.Command, names []string, do func(context.Context, *api.Client, string, func(api.Progress)) (api.VM, error)) error {
	client, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer client.CloseIdle()
	var mu sync.Mutex // guards the output, done and failed
	done := []api.VM{}
	var failures []error
	display := a.newDisplay()
	var group sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, name := range names {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			vm, err := do(cmd.Context(), client, name, prefixed(display, name, len(names)))
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

// listOfVMs prints what each of some VMs has, of all when names is empty: a line for each with the VM's name before the
// cells, or as JSON a list by the name of each VM that has any.
func listOfVMs[T any](ctx context.Context, a *app, names, header []string, of func(api.VM) []T, cells func(api.VM, T) []string) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer client.CloseIdle()
	vms, err := someVMs(ctx, client, names)
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
	if a.json {
		return a.printJSON(byName)
	}
	return a.table(rows)
}

// someVMs returns the VMs of these names, or all when there are none.
func someVMs(ctx context.Context, client *api.Client, names []string) ([]api.VM, error) {
	if len(names) == 0 {
		return client.VMs(ctx)
	}
	var vms []api.VM
	for _, name := range names {
		vm, err := client.VM(ctx, name)
		if err != nil {
			return nil, err
		}
		vms = append(vms, vm)
	}
	return vms, nil
}
