package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

// completions ask the daemon that runs; they start none and never wait long.
func (a *app) completions(ask func(context.Context, *api.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	c, _, err := config.Load(a.Getenv)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	client := api.NewClient(c.Home.Socket())
	defer client.CloseIdle()
	names, err := ask(ctx, client)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeVMs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.completions(func(ctx context.Context, client *api.Client) ([]string, error) {
		vms, err := client.Machines(ctx)
		var names []string
		for _, vm := range vms {
			names = append(names, vm.Name+"\t"+string(vm.State)+", "+vm.Image)
		}
		return names, err
	})
}

func (a *app) completeOneVM(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeVMs(cmd, given, toComplete)
}

func (a *app) completeImages(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.completions(func(ctx context.Context, client *api.Client) ([]string, error) {
		images, err := client.Images(ctx)
		var names []string
		for _, image := range images {
			names = append(names, image.Names...)
		}
		return names, err
	})
}

func (a *app) completeKernels(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.completions(func(ctx context.Context, client *api.Client) ([]string, error) {
		kernels, err := client.Kernels(ctx)
		var names []string
		for _, kernel := range kernels {
			for _, name := range kernel.Names {
				names = append(names, name+"\t"+kernel.Release)
			}
		}
		return names, err
	})
}

// completeServices completes a machine, then the services of its image.
func (a *app) completeServices(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	switch len(given) {
	case 0:
		return a.completeVMs(cmd, given, toComplete)
	case 1:
		return a.completions(func(ctx context.Context, client *api.Client) ([]string, error) {
			vm, err := client.Machine(ctx, given[0])
			if err != nil {
				return nil, err
			}
			image, err := client.Image(ctx, vm.ImageID)
			var names []string
			for _, service := range image.Services {
				names = append(names, service.Name)
			}
			return names, err
		})
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
