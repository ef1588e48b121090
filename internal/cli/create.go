package cli

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

// vmFlags are the flags that describe a new machine.
type vmFlags struct {
	name, image, kernel, memory, disk string
	cpus                              int
	env                               []string
	network                           string
	isolated                          bool
	publish                           []string
	hostServices                      []int
}

func (f *vmFlags) register(a *app, cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringVarP(&f.name, "name", "n", "", "name, a DNS label (default: made up)")
	set.StringVarP(&f.image, "image", "i", "", "image, or a source to pull it from such as oci:alpine (default from the settings)")
	set.StringVar(&f.kernel, "kernel", "", "kernel bundle (default: the one that the image names, or from the settings)")
	set.IntVarP(&f.cpus, "cpus", "c", 0, "number of CPUs (default from the settings)")
	set.StringVarP(&f.memory, "memory", "m", "", "memory, such as 512MiB or 2GiB (default from the settings)")
	set.StringVar(&f.disk, "disk", "", "size of its disk, which only takes what is written (default from the settings)")
	set.StringArrayVarP(&f.env, "env", "e", nil, "environment of its commands, NAME=VALUE, or NAME for the value here; many")
	set.StringVar(&f.network, "net", "", "user (other machines, and the world through this host) or none (default from the settings)")
	set.BoolVar(&f.isolated, "isolated", false, "reach no other machine, and be reached by none")
	set.StringArrayVarP(&f.publish, "publish", "p", nil, "forward a port of this host, [ADDR:]HOST:GUEST[/udp]; many")
	set.IntSliceVar(
		&f.hostServices,
		"host-service",
		nil,
		"a TCP port of this host's loopback that the machine may reach, at its gateway's address; many",
	)
	registerCompletion(
		cmd,
		"net",
		cobra.FixedCompletions([]string{string(api.NetworkUser), string(api.NetworkNone)}, cobra.ShellCompDirectiveNoFileComp),
	)
	registerCompletion(cmd, "image", a.completeImages)
	registerCompletion(cmd, "kernel", a.completeKernels)
}

// request turns the flags into what the API takes. What no flag says comes from the settings as
// they are now: a daemon that runs may have been started with others.
func (f *vmFlags) request(a *app, cmd *cobra.Command) (api.CreateMachine, error) {
	image, err := absoluteSource(cmp.Or(f.image, a.config.Image))
	if err != nil {
		return api.CreateMachine{}, err
	}
	want := api.CreateMachine{
		Name: f.name, Image: image, Kernel: f.kernel, KernelDefault: a.config.Kernel,
		CPUs: cmp.Or(f.cpus, a.config.CPUs), MemoryMiB: a.config.MemoryMiB, DiskMiB: a.config.DiskMiB, Env: a.expandEnv(f.env),
		Network: cmp.Or(api.Network(f.network), a.config.Network), Isolated: f.isolated, HostServices: f.hostServices,
	}
	for _, text := range f.publish {
		forward, err := api.ParseForward(text)
		if err != nil {
			return want, usageError{err}
		}
		want.Forwards = append(want.Forwards, forward)
	}
	for _, size := range []struct {
		flag, text string
		to         *int
	}{{"memory", f.memory, &want.MemoryMiB}, {"disk", f.disk, &want.DiskMiB}} {
		if size.text == "" {
			continue
		}
		mib, err := config.ParseMiB(size.text)
		if err != nil {
			return want, badUsage(cmd, "--%s: %w", size.flag, err)
		}
		*size.to = mib
	}
	if flag := cmd.Flags().Lookup("cpus"); flag.Changed && f.cpus < 1 {
		return want, badUsage(cmd, "--cpus: %d is not a number from 1 on", f.cpus)
	}
	return want, nil
}

// expandEnv gives a bare NAME the value that it has here, as docker does; one that is not set here
// is left out.
func (a *app) expandEnv(env []string) []string {
	var full []string
	for _, e := range env {
		if strings.Contains(e, "=") {
			full = append(full, e)
		} else if value := a.Getenv(e); value != "" {
			full = append(full, e+"="+value)
		}
	}
	return full
}

func (a *app) createCommand() *cobra.Command {
	var flags vmFlags
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Make a machine without starting it",
		Example: "  banger create --name web --cpus 4 --memory 4GiB",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			want, err := flags.request(a, cmd)
			if err != nil {
				return err
			}
			display := a.newDisplay()
			vm, err := a.client.CreateMachine(cmd.Context(), want, display.show)
			display.close()
			return show(a, vm, err, a.printName)
		},
	}
	flags.register(a, cmd)
	return cmd
}

// registerCompletion ties a completion to a flag that the same function has just defined.
func registerCompletion(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // the flag does not exist: a mistake in this package
	}
}
