package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/build"
	"banger/internal/config"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "doctor",
		Short:   "Look at what this host can do, and say how to repair what it cannot",
		Example: "  banger doctor",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks, err := a.client.Doctor(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(checks)
			} else {
				err = a.printChecks(checks)
			}
			for _, check := range checks {
				if err == nil && check.Status == api.CheckFailed {
					err = exitCode(exitFailure)
				}
			}
			return err
		},
	}
}

func (a *app) printChecks(checks []api.Check) error {
	marks := map[api.CheckStatus]string{api.CheckOK: "✓", api.CheckWarning: "!", api.CheckFailed: "✗"}
	for _, check := range checks {
		if _, err := fmt.Fprintf(a.Stdout, "%s %-16s %s\n", marks[check.Status], check.Name, check.Detail); err != nil {
			return err
		}
		repair := check.Repair
		if check.Remedy != nil {
			repair = remedyWords(*check.Remedy)
		}
		if repair != "" {
			if _, err := fmt.Fprintf(a.Stdout, "  %-16s repair: %s\n", "", repair); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) configCommand() *cobra.Command {
	return group("config", "Settings", "  banger config show", &cobra.Command{
		Use:     "show",
		Short:   "Show every setting and where its value came from",
		Example: "  banger config show --json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ofDaemon, err := a.settingsOfDaemon(cmd.Context())
			return show(a, config.InForce(a.settings, ofDaemon), err, a.printSettings)
		},
	})
}

// settingsOfDaemon returns those that the daemon works with, or nil when none runs: then the next
// one takes ours.
func (a *app) settingsOfDaemon(ctx context.Context) ([]api.Setting, error) {
	status, err := a.running(ctx)
	if api.CodeOf(err) == api.CodeUnavailable {
		return nil, nil
	}
	return status.Settings, err
}

func (a *app) printSettings(all []api.Setting) error {
	rows := [][]string{{"SETTING", "VALUE", "FROM"}}
	pending := false
	for _, s := range all {
		from := s.Origin
		if s.Pending != "" {
			pending = true
			from = fmt.Sprintf("the daemon that runs; %s from %s has to wait", s.Pending, s.PendingOrigin)
		}
		rows = append(rows, []string{s.Key, s.Value, from})
	}
	if err := a.table(rows); err != nil || !pending {
		return err
	}
	_, err := fmt.Fprintln(a.Stderr, "what waits counts for the next daemon: banger daemon stop")
	return err
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the version",
		Example: "  banger version",
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			id, err := build.ID()
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"version": build.Version(), "build": id, "api": api.Version})
			}
			_, err = fmt.Fprintf(a.Stdout, "banger %s, API %d\n", build.Version(), api.Version)
			return err
		},
	}
}
