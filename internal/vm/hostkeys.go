package vm

import (
	"context"

	"banger/api"
	"banger/internal/ssh"
	"banger/internal/store"
)

// hostKeys are the pinned ssh host keys of all VMs: in the records, and in a file for ssh.
type hostKeys struct {
	ssh   ssh.Dir
	store *store.Store
	turn  turn // held for a change of a record's key, and while the file is made of the records
}

// pin records the host key that a VM is known by from now on, or refuses one that is not the one
// recorded.
func (k *hostKeys) pin(ctx context.Context, id, key string, replace bool) error {
	give, err := k.turn.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	rec, err := k.store.VM(ctx, id)
	if err != nil {
		return err
	}
	if rec.HostKey != key {
		if rec.HostKey != "" && !replace {
			return api.Errorf(api.CodeConflict, "the ssh host key of machine %s has changed since the first connection",
				rec.Name).
				WithRemedy(api.OpPrepareSSH.Remedy(api.PrepareSSH{Machine: rec.Name, NewHostKey: true},
					"if you know why (sshd was installed anew, its keys were made again), take the new one"))
		}
		if err := k.store.SetHostKey(ctx, id, key); err != nil {
			return err
		}
	}
	return k.write(ctx, "")
}

// forget takes a VM out of the file of known hosts, before its record goes: another of its name has
// another key.
func (k *hostKeys) forget(ctx context.Context, id string) error {
	give, err := k.turn.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	return k.write(ctx, id)
}

// write makes the file what the records say, but for one VM, for who has the turn.
func (k *hostKeys) write(ctx context.Context, without string) error {
	recs, err := k.store.VMs(ctx)
	if err != nil {
		return err
	}
	var hosts []ssh.Host
	for _, rec := range recs {
		if rec.HostKey != "" && rec.ID != without {
			hosts = append(hosts, ssh.Host{Name: rec.Name, ID: rec.ID, Key: rec.HostKey})
		}
	}
	return k.ssh.WriteKnownHosts(hosts)
}
