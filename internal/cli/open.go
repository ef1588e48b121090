package cli

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
)

func (a *app) openCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "open NAME [SERVICE]",
		Short: "Make a service of a machine's image reachable here, and print its URL",
		Long: `Forward a port of this host to a service that the machine's image has, such as opencode in images of the preset
agent, and print its URL. SERVICE can be left out when the image has only one. The forward stays until
"banger forward rm"; asked again, the same URL is printed. Whether the service listens already is not waited for:
banger wait NAME --for port:4096.`,
		Example:           "  banger open agent opencode",
		Args:              args(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, given []string) error {
			client, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer client.CloseIdle()
			vm, err := client.VM(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			service, err := serviceOf(cmd.Context(), client, vm, given[1:])
			if err != nil {
				return err
			}
			forward, err := forwardTo(cmd.Context(), client, vm, service)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(forward)
			}
			_, err = fmt.Fprintf(a.Stdout, "http://%s%s\n", forward.Listen(), service.Path)
			return err
		},
	}
}

// serviceOf finds the service of that name, or the only one, of the machine's image.
func serviceOf(ctx context.Context, client *api.Client, vm api.VM, name []string) (api.ImageService, error) {
	image, err := client.Image(ctx, vm.ImageID)
	if err != nil {
		return api.ImageService{}, err
	}
	var names []string
	for _, service := range image.Services {
		if len(name) > 0 && service.Name == name[0] || len(name) == 0 && len(image.Services) == 1 {
			return service, nil
		}
		names = append(names, service.Name)
	}
	if len(names) == 0 {
		return api.ImageService{}, api.Errorf(api.CodeNotFound, "image %s of VM %s has no services", image.Name, vm.Name).
			WithHint("see what listens: banger ports %s; reach it: banger forward %s 8080:PORT", vm.Name, vm.Name)
	}
	return api.ImageService{}, api.Errorf(api.CodeNotFound, "which service of VM %s?", vm.Name).WithHint("its image has %s", strings.Join(names, ", "))
}

// forwardTo returns the forward to a service that is there already, or adds one, at the service's own port if that is free.
func forwardTo(ctx context.Context, client *api.Client, vm api.VM, service api.ImageService) (api.Forward, error) {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for _, f := range vm.Forwards {
		if f.Protocol == api.TCP && int(f.GuestPort) == service.Port && f.Host == loopback && f.Error == "" {
			return f, nil
		}
	}
	f := api.Forward{Protocol: api.TCP, Host: loopback, HostPort: uint16(service.Port), GuestPort: uint16(service.Port)}
	added, err := client.AddForward(ctx, vm.ID, f)
	if api.CodeOf(err) == api.CodeConflict {
		f.HostPort = 0 // another machine's, or a program's; any free one
		return client.AddForward(ctx, vm.ID, f)
	}
	return added, err
}
