package cli

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
)

// A service that does not answer a request by then is asked again, and given twice the time.
const (
	firstHealthTimeout = 5 * time.Second
	healthInterval     = 200 * time.Millisecond
)

func (a *app) openCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "open NAME [SERVICE]",
		Short: "Make a service of a machine's image reachable here, and print its URL",
		Long: `Forward a port of this host to a service that the machine's image has, such as opencode in images of the preset
agent, and print its URL once it answers. SERVICE can be left out when the image has only one. The forward stays until
"banger forward rm"; asked again, the same URL is printed.`,
		Example:           "  banger open agent opencode",
		Args:              args(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, given []string) error {
			vm, err := a.client.Machine(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			service, err := a.serviceOf(cmd.Context(), vm, given[1:])
			if err != nil {
				return err
			}
			forward, err := a.forwardTo(cmd.Context(), vm, service)
			if err != nil {
				return err
			}
			url := "http://" + forward.Listen()
			if service.Health != "" {
				ctx, cancel := context.WithTimeoutCause(
					cmd.Context(),
					timeout,
					api.Errorf(api.CodeTimeout, "%s in %s has not answered within %s", service.Name, vm.Name, timeout).
						WithHint("see what it does: banger exec %s -- journalctl -u %s; the forward stays", vm.Name, service.Name),
				)
				defer cancel()
				if err := awaitHealth(ctx, url+service.Health, firstHealthTimeout); err != nil {
					return err
				}
			}
			if a.json {
				return a.printJSON(forward)
			}
			_, err = fmt.Fprintln(a.Stdout, url+service.Path)
			return err
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long the service may take to answer")
	return cmd
}

// awaitHealth asks until any answer comes. A request is given up early, for opencode never answers
// one that came in the moment between its listening and its being ready.
func awaitHealth(ctx context.Context, url string, patience time.Duration) error {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	for ; ; patience *= 2 {
		if answers(ctx, url, patience) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func answers(ctx context.Context, url string, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	transport := &http.Transport{DisableKeepAlives: true} // through no proxy: it is this host's loopback
	response, err := transport.RoundTrip(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return true
}

// serviceOf finds the service of that name, or the only one, of the machine's image.
func (a *app) serviceOf(ctx context.Context, vm api.Machine, name []string) (api.ImageService, error) {
	image, err := a.client.Image(ctx, vm.ImageID)
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
		return api.ImageService{}, api.Errorf(api.CodeNotFound, "image %s of machine %s has no services", image.Name, vm.Name).
			WithHint("see what listens: banger ports %s; reach it: banger forward %s 8080:PORT", vm.Name, vm.Name)
	}
	return api.ImageService{}, api.Errorf(api.CodeNotFound, "which service of machine %s?", vm.Name).
		WithHint("its image has %s", strings.Join(names, ", "))
}

// forwardTo returns the forward to a service that is there already, or adds one, at the service's
// own port if that is free.
func (a *app) forwardTo(ctx context.Context, vm api.Machine, service api.ImageService) (api.Forward, error) {
	f := api.Forward{HostPort: uint16(service.Port), GuestPort: uint16(service.Port)}.WithDefaults()
	for _, have := range vm.Forwards {
		if have.Protocol == f.Protocol && have.GuestPort == f.GuestPort && have.Host == f.Host && have.Error == "" {
			return have, nil
		}
	}
	added, err := a.client.AddForward(ctx, addForward(vm.ID, f))
	if api.CodeOf(err) == api.CodeConflict {
		f.HostPort = 0 // another machine's, or a program's; any free one
		return a.client.AddForward(ctx, addForward(vm.ID, f))
	}
	return added, err
}
