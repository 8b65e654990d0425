use super::*;

fn columns(lines: &[&str]) -> Columns {
    let mut columns = Columns::default();
    columns.extend(lines.iter().map(|line| line.as_bytes()), None);
    columns
}

fn shown(columns: &Columns) -> Vec<(&str, &str, Kind)> {
    columns.all().iter().map(|c| (c.name.as_str(), c.member.as_str(), c.kind)).collect()
}

#[test]
fn a_column_has_the_type_that_loses_nothing() {
    let line = r#"{"s":"a\u0062","i":-7,"big":9007199254740993,"huge":12345678901234567890,"f":7.0,"z":-0,"b":true,"a":[1],"e":{},"o":{"in":"x"},"n":null,"lone":"\ud800"}"#;
    let columns = columns(&[line]);
    let expected = [
        ("s", "/s", Kind::Text),
        ("i", "/i", Kind::Integer),
        ("big", "/big", Kind::Integer),
        ("huge", "/huge", Kind::Json),
        ("f", "/f", Kind::Json),
        ("z", "/z", Kind::Json),
        ("b", "/b", Kind::Boolean),
        ("a", "/a", Kind::Json),
        ("e", "/e", Kind::Json),
        ("o_in", "/o/in", Kind::Text),
        ("lone", "/lone", Kind::Json),
    ];
    assert_eq!(shown(&columns), expected);
    let (cells, rest) = columns.cells(line.as_bytes());
    assert_eq!((cells[0].clone(), rest), (Some(Cell::Text("ab".into())), None));
    assert_eq!(cells[2], Some(Cell::Integer(9_007_199_254_740_993)));
    assert_eq!(cells[4], Some(Cell::Text("7.0".into())));
}

#[test]
fn one_strange_body_changes_no_column_and_is_named() {
    let mut lines = vec![r#"{"user":"ada","client":{"ip":"::1"}}"#; 100];
    lines.push(r#"{"user":7,"User":"eve","client":{"ip":[]},"rare":1,"client_ip":2,"dt":3}"#);
    let mut columns = columns(&lines);
    let expected = [("user", "/user", Kind::Text), ("client_ip", "/client/ip", Kind::Text)];
    assert_eq!(shown(&columns), expected);
    let (cells, rest) = columns.cells(lines[100].as_bytes());
    assert_eq!(cells, [None, None]);
    let expected = r#"["/user","/User","/client/ip","/rare","/client_ip","/dt"]"#;
    assert_eq!(rest.as_deref(), Some(expected));
    // Later files keep the columns, whatever most of their records contain.
    let later = [r#"{"user":8,"User":"x","new":"y"}"#];
    columns.extend(later.iter().map(|line| line.as_bytes()), None);
    assert_eq!(shown(&columns)[2..], [("new", "/new", Kind::Text)]);
    assert_eq!(shown(&columns)[0], ("user", "/user", Kind::Text));
    let (cells, rest) = columns.cells(br#"{"user":"a","user":"b","new":null}"#);
    assert_eq!((cells, rest.as_deref()), (vec![None; 3], Some(r#"["/user"]"#)));
    let again = Columns::from_parts(columns.all().to_vec()).unwrap();
    assert_eq!(shown(&again), shown(&columns));
    let lie = Column { member: "/nobody".to_owned(), ..columns.all()[0].clone() };
    assert!(Columns::from_parts(vec![lie]).is_none());
}
