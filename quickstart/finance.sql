-- The database of the example customer: a few accounts and what they owe.
CREATE TABLE accounts (
    id integer PRIMARY KEY,
    name text NOT NULL,
    city text NOT NULL,
    opened_on date NOT NULL
);
CREATE TABLE invoices (
    id integer PRIMARY KEY,
    account_id integer NOT NULL REFERENCES accounts,
    issued_on date NOT NULL,
    due_on date NOT NULL,
    amount numeric(12, 2) NOT NULL CHECK (amount > 0),
    paid_on date
);
INSERT INTO accounts VALUES
    (1, 'Halyard Marine Supplies', 'Rotterdam', '2019-03-11'),
    (2, 'Bright & Sons Bakery', 'Leeds', '2020-09-01'),
    (3, 'Nordlicht Optik', 'Kiel', '2021-01-18'),
    (4, 'Cooperativa del Puerto', 'Valencia', '2022-06-30'),
    (5, 'Tamarind Hotel', 'Chennai', '2024-11-05');
INSERT INTO invoices VALUES
    (2601, 1, '2026-01-05', '2026-02-04', 12480.00, '2026-01-29'),
    (2602, 2, '2026-01-09', '2026-02-08', 642.75, '2026-02-02'),
    (2603, 3, '2026-01-21', '2026-02-20', 8310.40, NULL),
    (2604, 1, '2026-02-03', '2026-03-05', 3975.10, '2026-03-01'),
    (2605, 4, '2026-02-10', '2026-03-12', 15220.00, NULL),
    (2606, 5, '2026-02-17', '2026-03-19', 2199.90, '2026-03-18'),
    (2607, 2, '2026-03-02', '2026-04-01', 701.20, NULL),
    (2608, 3, '2026-03-11', '2026-04-10', 450.00, NULL);
CREATE VIEW open_invoices AS
    SELECT i.id, a.name AS account, i.due_on, i.amount
    FROM invoices AS i JOIN accounts AS a ON a.id = i.account_id
    WHERE i.paid_on IS NULL;
