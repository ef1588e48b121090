package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"banger/api"
)

// errForwardTaken is inside the error about a port of the host that leads to a VM already.
var errForwardTaken = errors.New("forwarded already")

// AddForward records that a port of the host leads to the VM. A port that leads to one already is a
// conflict.
func (s *Store) AddForward(ctx context.Context, id string, f api.Forward) error {
	err := s.transaction(ctx, func(tx *sql.Tx) error { return insertForward(ctx, tx, id, f) })
	if isConstraint(err, foreignKeyViolation) {
		return notFound(vmEntity, id)
	}
	return err
}

// DeleteForward deletes the record; there being none is no error.
func (s *Store) DeleteForward(ctx context.Context, id string, f api.Forward) error {
	_, err := s.exec(
		ctx,
		`DELETE FROM forwards WHERE vm_id = ? AND protocol = ? AND host = ? AND host_port = ?`,
		id,
		f.Protocol,
		f.Host.String(),
		f.HostPort,
	)
	if err != nil {
		return fmt.Errorf("delete forward %s: %w", f, err)
	}
	return nil
}

func insertForward(ctx context.Context, tx *sql.Tx, id string, f api.Forward) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO forwards (vm_id, protocol, host, host_port, guest_port) VALUES (?, ?, ?, ?, ?)`,
		id, f.Protocol, f.Host.String(), f.HostPort, f.GuestPort)
	if !isConstraint(err, primaryKeyViolation) {
		return err
	}
	var owner string
	err = tx.QueryRowContext(ctx, `SELECT name FROM forwards JOIN vms ON vms.id = vm_id WHERE protocol = ? AND host = ? AND host_port = ?`,
		f.Protocol, f.Host.String(), f.HostPort).Scan(&owner)
	if err != nil {
		return err
	}
	return api.Errorf(api.CodeConflict, "%s port %s of this host is %w, to machine %s", f.Protocol, f.Listen(), errForwardTaken, owner).
		WithRemedy(api.OpRemoveForward.Remedy(
			api.RemoveForward{Machine: owner, Protocol: f.Protocol, Host: f.Host, HostPort: f.HostPort}, "choose another one, or end it"))
}
