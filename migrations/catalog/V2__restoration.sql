-- What a deleted tenant was, which it is again when it is restored. NULL: active.
ALTER TABLE tenants ADD COLUMN state_before TEXT CHECK (state_before IN ('suspended', 'quarantined'));
ALTER TABLE tenants ADD COLUMN reason_before TEXT;

-- When the provider last reported the deletion of a tenant that was deleted already, by this server's
-- clock. A list of users that was begun before that moment does not bring it back.
ALTER TABLE tenants ADD COLUMN deletion_reported INTEGER;
