package control

import (
	"path"
	"slices"

	"banger/api"
)

// shells and inits are what an image's command may be without meaning a program of its own.
var (
	shells = []string{"sh", "ash", "bash", "dash", "zsh", "fish", "ksh"}
	inits  = []string{"init", "systemd", "openrc-init"}
)

// commandOf returns what `run` runs in a machine of an image: as in a container, the image's
// entrypoint stands before the given command, and without one the image's own follows it. Nil is a
// login shell: for an image that names no program, or just a shell, or an init, which the machine
// has started already. entrypoint, when it is not nil, replaces the image's, and with it the
// image's command.
func commandOf(image api.ImageDefaults, argv []string, entrypoint *string) []string {
	first, standard := image.Entrypoint, image.Cmd
	if entrypoint != nil {
		first, standard = nil, nil
		if *entrypoint != "" {
			first = []string{*entrypoint}
		}
	}
	if len(argv) > 0 {
		return slices.Concat(first, argv)
	}
	command := slices.Concat(first, standard)
	if len(command) == 0 || entrypoint == nil && len(command) == 1 && slices.Contains(slices.Concat(shells, inits), path.Base(command[0])) {
		return nil
	}
	return command
}
