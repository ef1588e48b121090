package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/build"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "doctor",
		Short:   "Look at what this host can do, and say how to repair what it cannot",
		Example: "  banger doctor",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer client.CloseIdle()
			checks, err := client.Doctor(cmd.Context())
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
		if _, err := fmt.Fprintf(a.Stdout, "%s %-16s %s\n", marks[check.Status], check.Name, check.Found); err != nil {
			return err
		}
		if check.Repair != "" {
			if _, err := fmt.Fprintf(a.Stdout, "  %-16s repair: %s\n", "", check.Repair); err != nil {
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
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.printJSON(a.settings)
			}
			rows := [][]string{{"SETTING", "VALUE", "FROM"}}
			for _, s := range a.settings {
				rows = append(rows, []string{s.Key, s.Value, s.Origin})
			}
			return a.table(rows)
		},
	})
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
